//! Errors that the server raised, as values; and lines for the server log.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, pg_sys};

/// While it lives, SQLSTATEs that users have made up are noted when they are raised. pgrx knows the
/// server's own codes only, and takes any other for that of an internal error.
pub struct CodeRecorder {
    callback: Box<pg_sys::ErrorContextCallback>,
}

static RAISED: AtomicI32 = AtomicI32::new(0);

unsafe extern "C-unwind" fn record(_argument: *mut c_void) {
    // SAFETY: an error context callback is called while an error is being reported, which is when
    // its code can be asked for.
    let code = unsafe { pg_sys::geterrcode() };
    let internal = PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
    if code != internal as i32 && PgSqlErrorCode::from(code) == internal {
        RAISED.store(code, Ordering::Relaxed);
    }
}

impl CodeRecorder {
    /// Begins to note.
    pub fn start() -> Self {
        RAISED.store(0, Ordering::Relaxed);
        // SAFETY: the callback stays at its place on the heap until Drop takes it off the stack.
        unsafe {
            let mut callback = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(record),
                arg: std::ptr::null_mut(),
            });
            pg_sys::error_context_stack = &raw mut *callback;
            Self { callback }
        }
    }
}

impl Drop for CodeRecorder {
    fn drop(&mut self) {
        // SAFETY: recorders nest strictly; what was there before is there again.
        unsafe { pg_sys::error_context_stack = self.callback.previous };
    }
}

/// An error that was caught, with what is worth keeping of it.
#[derive(Debug, Clone)]
pub struct Caught {
    /// The class of the error.
    pub code: PgSqlErrorCode,
    /// Its code as the server packs it: also one that a user's function has made up.
    packed: i32,
    /// The primary message.
    pub message: String,
    /// The detail, if there was one: of postgres_fdw, what the other server said.
    pub detail: Option<String>,
    /// The hint, if there was one.
    pub hint: Option<String>,
    cancel: bool,
}

/// Bytes of an error's text that are kept and logged.
const MOST_MESSAGE: usize = 1000;

/// Where the server raises what an interrupt asks for.
const INTERRUPTS: &str = "postgres.c";

impl Caught {
    /// Message and detail in one text, as it is logged: the beginning, where somebody raises megabytes.
    pub fn full_message(&self) -> String {
        let mut text = match &self.detail {
            Some(detail) => format!("{}: {detail}", self.message),
            None => self.message.clone(),
        };
        if text.len() > MOST_MESSAGE {
            text.truncate(text.floor_char_boundary(MOST_MESSAGE));
            text.push_str("...");
        }
        text
    }

    /// The five characters of the SQLSTATE.
    pub fn sqlstate(&self) -> String {
        // The server packs five characters of six bits each, counted from '0'.
        (0..5)
            .map(|position| {
                let six_bits = (self.packed >> (6 * position)) & 0x3f;
                char::from(b'0' + six_bits as u8)
            })
            .collect()
    }

    /// Raises the error again, where it must not be passed over.
    pub fn rethrow(self) -> ! {
        let mut report = pgrx::pg_sys::panic::ErrorReport::new(self.code, self.message, "");
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(pgrx::PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// True for a cancelled query: by pg_cancel_backend, a timeout or the end of the process; not for an
    /// error to which a view's own code has given that SQLSTATE.
    pub const fn is_cancel(&self) -> bool {
        self.cancel
    }
}

impl From<&CaughtError> for Caught {
    fn from(error: &CaughtError) -> Self {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = error;
        let code = report.sql_error_code();
        let raised = RAISED.swap(0, Ordering::Relaxed);
        let unknown = code == PgSqlErrorCode::ERRCODE_INTERNAL_ERROR && raised != 0;
        Self {
            code,
            packed: if unknown { raised } else { code as i32 },
            message: report.message().to_owned(),
            detail: report.detail().map(|detail| detail.trim().to_owned()),
            hint: report.hint().map(str::to_owned),
            cancel: code == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
                && report.file().ends_with(INTERRUPTS),
        }
    }
}

// The frame of an error report, which the generated bindings leave out.
unsafe extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
    fn errhint(format: *const c_char, ...) -> c_int;
}

/// Writes a line to the server log, with optional detail and hint, and without the statement that a
/// session happens to be running: the line is about a view.
pub fn log(message: &str, detail: Option<&str>, hint: Option<&str>) {
    let text = |text: &str| CString::new(text.replace('\0', "")).unwrap_or_default();
    // SAFETY: the order of calls is that of the server's ereport macro, and the texts are copied. At this level it
    // returns, with interrupts held: else it would raise those that are pending, over our frames.
    unsafe {
        if !errstart(pg_sys::LOG as c_int, std::ptr::null()) {
            return;
        }
        pg_sys::InterruptHoldoffCount += 1;
        pg_sys::errmsg_internal(c"%s".as_ptr(), text(message).as_ptr());
        if let Some(detail) = detail {
            pg_sys::errdetail_internal(c"%s".as_ptr(), text(detail).as_ptr());
        }
        if let Some(hint) = hint {
            errhint(c"%s".as_ptr(), text(hint).as_ptr());
        }
        pg_sys::errhidestmt(true);
        pg_sys::errhidecontext(true);
        errfinish(c"cache_refresher".as_ptr(), 0, std::ptr::null());
        pg_sys::InterruptHoldoffCount -= 1;
    }
}

/// Warns the client.
pub fn warn(message: &str, hint: Option<&str>) {
    let mut report = pgrx::pg_sys::panic::ErrorReport::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        message.to_owned(),
        "",
    );
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(pgrx::PgLogLevel::WARNING);
}
