//! Where the server calls us: statements of users, settings, catalogs that change, the end of a transaction.

pub mod announcements;
mod concern;
pub mod invalidation;
pub mod settings;
pub mod utility;
