//! Errors that the server raised, as values; and lines for the server log.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;

/// An error that was caught, with what is worth keeping of it.
#[derive(Debug, Clone)]
pub struct Caught {
    /// The class of the error.
    pub code: PgSqlErrorCode,
    /// The primary message.
    pub message: String,
    /// The hint, if there was one.
    pub hint: Option<String>,
}

impl Caught {
    /// The five characters of the SQLSTATE.
    pub fn sqlstate(&self) -> String {
        // The server packs five characters of six bits each, counted from '0'.
        (0..5)
            .map(|position| {
                let six_bits = ((self.code as i32) >> (6 * position)) & 0x3f;
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

    /// True for a cancelled query: by pg_cancel_backend, a timeout or the end of the process.
    pub fn is_cancel(&self) -> bool {
        self.code == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
    }
}

impl From<&CaughtError> for Caught {
    fn from(error: &CaughtError) -> Self {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        }) = error;
        Self {
            code: report.sql_error_code(),
            message: report.message().to_owned(),
            hint: report.hint().map(str::to_owned),
        }
    }
}

/// Writes a line to the server log, with optional detail and hint.
pub fn log(message: &str, detail: Option<&str>, hint: Option<&str>) {
    let mut report = pgrx::pg_sys::panic::ErrorReport::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message.to_owned(),
        "",
    );
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(pgrx::PgLogLevel::LOG);
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
