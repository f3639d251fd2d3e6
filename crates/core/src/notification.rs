//! What a refresh tells those who LISTEN to `cache_refresher`.

use serde::Serialize;

/// The payload of one notification, as JSON in this order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notification<'a> {
    /// The view with its schema.
    pub view: &'a str,
    /// What came of the refresh, as [`Outcome::as_str`](crate::outcome::Outcome::as_str) says.
    pub outcome: &'a str,
    /// How it was done, as [`Method::as_str`](crate::method::Method::as_str) says.
    pub method: &'a str,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// Rows in the view, where they were counted.
    pub rows: Option<i64>,
    /// Of what time its content is, as RFC 3339.
    pub data_as_of: Option<String>,
}

impl Notification<'_> {
    /// The payload.
    pub fn to_payload(&self) -> String {
        // Texts and numbers cannot fail to serialize; an empty payload still says that something
        // happened.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_json_with_escaped_names() {
        let notification = Notification {
            view: "public.\"odd\"",
            outcome: "refreshed",
            method: "concurrent",
            duration_ms: 12.5,
            rows: Some(3),
            data_as_of: None,
        };
        assert_eq!(
            notification.to_payload(),
            "{\"view\":\"public.\\\"odd\\\"\",\"outcome\":\"refreshed\",\
             \"method\":\"concurrent\",\"duration_ms\":12.5,\"rows\":3,\"data_as_of\":null}"
        );
    }
}
