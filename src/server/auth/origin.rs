//! Which pages may use the service: browsers say in `Origin` whose page asks, for WebSockets too, where nothing else
//! would hold a stranger's page back.

use axum::http::{HeaderMap, HeaderValue, Uri, header};

use crate::config::is_loopback;

/// The origins that are let in. A request without one is not a browser's, and not held back here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    All,
    /// Pages of this very machine: nobody asks for a token, and any page that its user looks at could come in.
    Loopback,
    These(Vec<String>),
}

impl Origins {
    /// `allowed` as the configuration has them; `tokens`: whether each request needs one.
    pub fn new(allowed: &[String], tokens: bool) -> Self {
        match allowed {
            [] if tokens => Self::All,
            [] => Self::Loopback,
            some if some.iter().any(|origin| origin == "*") => Self::All,
            some => Self::These(some.to_vec()),
        }
    }

    /// Whether what says so of itself may come in.
    pub fn allow(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        match self {
            Self::All => true,
            Self::These(allowed) => allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
            Self::Loopback => origin.parse::<Uri>().is_ok_and(|origin| origin.host().is_some_and(is_loopback)),
        }
    }

    /// Whether every origin that a request names may come in.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::ORIGIN).iter().all(|origin| self.allow(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_origins_that_are_listed_come_in() {
        let asks = |origins: &Origins, origin: &'static str| origins.allow(&HeaderValue::from_static(origin));
        let listed = Origins::new(&["https://a.example".to_owned(), "http://b.example:8000".to_owned()], true);
        for origin in ["https://a.example", "http://b.example:8000"] {
            assert!(asks(&listed, origin), "{origin}");
        }
        for origin in ["http://a.example", "https://a.example:444", "https://a.example.evil", "null", "", "*"] {
            assert!(!asks(&listed, origin), "{origin}");
        }
        assert!(asks(&Origins::new(&[], true), "https://any.example"));
        assert!(asks(&Origins::new(&["*".to_owned()], false), "null"));
    }

    #[test]
    fn where_no_token_is_asked_for_only_pages_of_this_machine_come_in() {
        let asks = |origin: &'static str| Origins::new(&[], false).allow(&HeaderValue::from_static(origin));
        for origin in ["http://localhost:5173", "http://127.0.0.1", "https://[::1]:8443"] {
            assert!(asks(origin), "{origin}");
        }
        for origin in ["https://a.example", "http://localhost.example", "http://10.0.0.1", "null", "file://"] {
            assert!(!asks(origin), "{origin}");
        }
        assert!(Origins::Loopback.admit(&HeaderMap::new()), "no browser");
    }
}
