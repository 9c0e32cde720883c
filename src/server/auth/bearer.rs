//! Where a request's token is: `Authorization: Bearer …` (RFC 6750 2.1) or, for browsers' WebSockets, the offered
//! subprotocol `bearer.…`. Never in the URL, where logs and histories keep it.

use axum::http::{HeaderMap, Uri, header};

/// Most characters of a token.
const MAX_TOKEN: usize = 8 << 10;

/// Query parameters in which others carry tokens.
const IN_URL: [&str; 4] = ["access_token", "token", "bearer", "jwt"];

/// The one token of a request; none is there where there is none.
///
/// # Errors
/// A sentence for the client: more than one, or what can't be a token.
pub fn token(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let authorization = authorizations.next();
    if authorizations.next().is_some() {
        return Err("there is more than one Authorization header");
    }
    let authorization = match authorization {
        Some(value) => of_scheme(value.to_str().map_err(|_| "the Authorization header can't be read")?),
        None => None,
    };
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered = offered.flat_map(|list| list.split(',')).filter_map(|name| name.trim().strip_prefix("bearer."));
    let mut tokens = authorization.into_iter().chain(offered);
    let token = tokens.next();
    if tokens.next().is_some() {
        return Err("there is more than one token");
    }
    match token {
        Some(token) if token.len() > MAX_TOKEN => Err("the token is too long"),
        Some(token) if token.is_empty() || !token.bytes().all(of_a_token) => Err("the token can't be read"),
        token => Ok(token),
    }
}

/// Schemes other than ours are not for us.
fn of_scheme(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The characters of b64token (RFC 6750 2.1).
fn of_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

/// The name of the query parameter that holds a token, where there is one.
pub fn in_url(uri: &Uri) -> Option<&'static str> {
    let names = uri.query()?.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    names.into_iter().find_map(|name| IN_URL.into_iter().find(|known| name.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(of: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_found_where_it_may_be_and_only_one() {
        use header::{AUTHORIZATION as A, SEC_WEBSOCKET_PROTOCOL as P};
        for (of, found) in [
            (vec![], Ok(None)),
            (vec![(A, "Bearer a.b.c")], Ok(Some("a.b.c"))),
            (vec![(A, "bearer  a.b.c ")], Ok(Some("a.b.c"))),
            (vec![(A, "Basic abc")], Ok(None)),
            (vec![(P, "segmill.v1, bearer.a.b.c")], Ok(Some("a.b.c"))),
            (vec![(P, "segmill.v1"), (P, "bearer.a.b.c")], Ok(Some("a.b.c"))),
            (vec![(A, "Bearer a"), (A, "Bearer a")], Err("there is more than one Authorization header")),
            (vec![(A, "Bearer a"), (P, "bearer.a")], Err("there is more than one token")),
            (vec![(P, "bearer.a, bearer.b")], Err("there is more than one token")),
            (vec![(A, "Bearer")], Err("the token can't be read")),
            (vec![(A, "Bearer a b")], Err("the token can't be read")),
            (vec![(A, "Bearer a\"")], Err("the token can't be read")),
        ] {
            assert_eq!(token(&headers(&of)), found, "{of:?}");
        }
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN + 1));
        assert!(token(&headers(&[(A, &long)])).is_err());
    }

    #[test]
    fn a_token_in_the_url_is_seen() {
        let found = |url: &str| in_url(&url.parse().unwrap());
        assert_eq!(found("/v1/stream?x=1&Access_Token=a"), Some("access_token"));
        assert_eq!(found("/v1/stream?token"), Some("token"));
        assert_eq!((found("/v1/transcode?height=4"), found("/v1/stream?tokens=1")), (None, None));
    }
}
