//! Our tables as typed rows, and what we ask of the server's catalogs. The only place that reads
//! and writes them.

pub mod attempts;
pub mod binding;
pub mod capture;
pub mod content;
pub mod grant;
pub mod history;
pub mod lock_holder;
pub mod overview;
pub mod proof;
pub mod query;
pub mod registry;
mod remembered;
pub mod version;
pub mod view;
