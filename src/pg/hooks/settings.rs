//! Check hooks of our settings: a bad value is refused when it is set, with the accepted forms.

use std::ffi::{CStr, CString, c_char, c_void};

use cache_refresher_core::databases::DatabaseList;
use cache_refresher_core::interval_list::IntervalList;
use cache_refresher_core::{duration, interval};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::{pg_guard, pg_sys};

/// What a text setting holds; decides how it is checked.
#[derive(Clone, Copy)]
pub enum SettingKind {
    /// A duration, zero included.
    Duration,
    /// A duration, or -1 for never.
    DurationOrNever,
    /// An interval between refreshes.
    Interval,
    /// `name=interval, …`
    IntervalList,
    /// `*` or names of databases.
    DatabaseList,
}

/// Defines a text setting that refuses bad values.
pub fn define(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
    kind: SettingKind,
) {
    let check: pg_sys::GucStringCheckHook = match kind {
        SettingKind::Duration => Some(check_duration),
        SettingKind::DurationOrNever => Some(check_duration_or_never),
        SettingKind::Interval => Some(check_interval),
        SettingKind::IntervalList => Some(check_interval_list),
        SettingKind::DatabaseList => Some(check_database_list),
    };
    // SAFETY: the check hooks are guarded against panics by #[pg_guard].
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            details,
            setting,
            context,
            GucFlags::default(),
            check,
            None,
            None,
        );
    }
}

/// # Safety
/// `new_value` must be what the server hands to a check hook.
unsafe fn check(
    new_value: *mut *mut c_char,
    parse: impl FnOnce(&str) -> Result<(), String>,
    hint: &str,
) -> bool {
    // SAFETY: the server passes a pointer to a C string, or to null for no value.
    let text = unsafe {
        if (*new_value).is_null() {
            return true;
        }
        CStr::from_ptr(*new_value).to_string_lossy()
    };
    let Err(problem) = parse(&text) else {
        return true;
    };
    let (problem, hint) = (CString::new(problem), CString::new(hint));
    if let (Ok(problem), Ok(hint)) = (problem, hint) {
        // SAFETY: format_elog_string copies into memory that lives until the error is reported,
        // which is where the server's own macros put these texts.
        unsafe {
            pg_sys::GUC_check_errdetail_string =
                pg_sys::format_elog_string(c"%s".as_ptr(), problem.as_ptr());
            pg_sys::GUC_check_errhint_string =
                pg_sys::format_elog_string(c"%s".as_ptr(), hint.as_ptr());
        }
    }
    false
}

fn sentence(problem: impl std::fmt::Display) -> String {
    let text = problem.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

#[pg_guard]
unsafe extern "C-unwind" fn check_duration(
    new_value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let parse = |text: &str| duration::parse(text).map(drop).map_err(sentence);
    // SAFETY: called by the server as a check hook.
    unsafe { check(new_value, parse, duration::FORMS) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_duration_or_never(
    new_value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let parse = |text: &str| match text.trim() {
        "-1" => Ok(()),
        text => duration::parse(text).map(drop).map_err(sentence),
    };
    let hint = format!("{} -1 logs none.", duration::FORMS);
    // SAFETY: called by the server as a check hook.
    unsafe { check(new_value, parse, &hint) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_interval(
    new_value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let parse = |text: &str| {
        let parsed = duration::parse(text).map_err(sentence)?;
        interval::check(parsed).map(drop).map_err(sentence)
    };
    // SAFETY: called by the server as a check hook.
    unsafe { check(new_value, parse, duration::FORMS) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_interval_list(
    new_value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let parse = |text: &str| text.parse::<IntervalList>().map(drop).map_err(sentence);
    let hint = "Write name=interval pairs with commas between them, such as \
                \"my_view=5m, reports.daily=1h30m\".";
    // SAFETY: called by the server as a check hook.
    unsafe { check(new_value, parse, hint) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_database_list(
    new_value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let parse = |text: &str| text.parse::<DatabaseList>().map(drop).map_err(sentence);
    let hint = "Write * for all databases, or their names with commas between them.";
    // SAFETY: called by the server as a check hook.
    unsafe { check(new_value, parse, hint) }
}

/// Refuses settings under our prefix that we do not know, typing errors above all.
pub fn reserve_prefix() {
    // SAFETY: a constant C string; called after all settings are defined.
    unsafe {
        pg_sys::MarkGUCPrefixReserved(c"cache_refresher".as_ptr());
    }
}
