//! The settings under which a view's query runs: the same whoever asks.
//!
//! A view may depend on TimeZone and its kin (`created_at::date`). It must not matter who refreshed
//! it, so these are what a new session in this database gets without any role's settings: what
//! ALTER DATABASE says, else what postgresql.conf says.

use std::ffi::{CStr, CString};
use std::time::Duration;

use crate::catalog::view;
use crate::error::Result;
use crate::pg::{identity, shared};

/// Names and values to be set.
pub type Settings = Vec<(&'static CStr, CString)>;

const FIXED: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"row_security", c"on"),
    (c"quote_all_identifiers", c"off"),
    (c"xmlbinary", c"base64"),
    (c"xmloption", c"content"),
    (c"gin_fuzzy_search_limit", c"0"),
    // How the text of a summary query is read.
    (c"standard_conforming_strings", c"on"),
    (c"backslash_quote", c"safe_encoding"),
    (c"transform_null_equals", c"off"),
    (c"array_nulls", c"on"),
    // In which order rows come, which a diff hopes to be that of last time: not from where another scan of the
    // table happens to be.
    (c"synchronize_seqscans", c"off"),
];

/// Those that configuration decides.
const NAMES: [&CStr; 7] = [
    c"TimeZone",
    c"timezone_abbreviations",
    c"DateStyle",
    c"IntervalStyle",
    c"lc_time",
    c"lc_numeric",
    c"lc_monetary",
];

/// What is set while a view's query runs.
pub fn pinned(lock_timeout: Duration) -> Result<Settings> {
    let mut settings = configured()?;
    settings.push((c"lock_timeout", milliseconds(lock_timeout)));
    Ok(settings)
}

/// The same without its limit in time.
pub fn configured() -> Result<Settings> {
    let mut settings: Settings =
        FIXED.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    if let Some(defaults) = shared::defaults() {
        let of_database = view::database_settings()?;
        let of_server = [
            (c"TimeZone", defaults.time_zone.as_str()),
            (c"timezone_abbreviations", defaults.timezone_abbreviations.as_str()),
            (c"DateStyle", defaults.date_style.as_str()),
            (c"IntervalStyle", defaults.interval_style.as_str()),
            (c"lc_time", defaults.lc_time.as_str()),
            (c"lc_numeric", defaults.lc_numeric.as_str()),
            (c"lc_monetary", defaults.lc_monetary.as_str()),
        ];
        for (name, server) in of_server {
            let database = of_database
                .iter()
                .find(|(set, _)| set.eq_ignore_ascii_case(&name.to_string_lossy()))
                .map(|(_, value)| value.as_str());
            if let Ok(value) = CString::new(database.unwrap_or(server)) {
                settings.push((name, value));
            }
        }
    }
    Ok(settings)
}

/// Those of them on which the result of a query may depend, as a text.
pub fn text(settings: &Settings) -> String {
    let relevant = NAMES.map(|name| {
        let pinned = settings.iter().find(|(set, _)| *set == name).map(|(_, value)| value.clone());
        pinned.or_else(|| identity::setting(name)).unwrap_or_default()
    });
    relevant.map(|value| value.to_string_lossy().into_owned()).join(", ")
}

/// The same, borrowed.
pub fn refs(settings: &Settings) -> Vec<(&CStr, &CStr)> {
    settings.iter().map(|(name, value)| (*name, value.as_c_str())).collect()
}

/// A duration as a setting in milliseconds; what is shorter than one becomes one, since zero means
/// without limit.
pub fn milliseconds(duration: Duration) -> CString {
    let millis = duration.as_micros().div_ceil(1000).min(i32::MAX as u128);
    CString::new(millis.to_string()).unwrap_or_default()
}
