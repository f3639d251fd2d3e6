//! What tests that break things have in common: a database under load whose views can be checked.

mod honesty;
mod load;

pub use honesty::{assert_honest, capture, settle, state, stays_honest};
pub use load::{Load, Written, check, create_views, wait_until_right};

/// A number from the environment, for runs longer than CI's.
pub fn number(variable: &str, otherwise: u32) -> u32 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => otherwise,
    }
}
