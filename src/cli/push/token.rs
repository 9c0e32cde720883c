//! The token that a service asks for. Never shown.

use std::fmt;
use std::path::PathBuf;

use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Where the token is.
#[derive(Clone)]
pub enum Token {
    Given(String),
    /// Read for each connection: a token that is about to end can be put aside for another while a session runs.
    File(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

impl Token {
    /// TOKEN or @FILE.
    pub fn of(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(path) => Self::File(path.into()),
            None => Self::Given(text.to_owned()),
        }
    }

    /// `Authorization`, marked so that no log shows it.
    ///
    /// # Errors
    /// A sentence that doesn't show the token.
    pub fn header(&self) -> Result<HeaderValue, String> {
        let token = match self {
            Self::Given(token) => token.clone(),
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| "the token has characters that no token has".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = Token::of(&format!("@{}", file.path().display()));
        for now in ["first", "second"] {
            std::fs::write(file.path(), format!("{now}\n")).unwrap();
            assert_eq!(token.header().unwrap(), format!("Bearer {now}"));
        }
        let given = Token::of("s3cret");
        assert_eq!(given.header().unwrap(), "Bearer s3cret");
        assert!(!format!("{given:?} {:?}", given.header()).contains("s3cret"));
        assert!(!Token::of("s3\ncret").header().unwrap_err().contains("cret"));
        assert!(Token::of("@/there/is/none").header().unwrap_err().starts_with("/there/is/none"));
    }
}
