//! JSON Web Tokens (RFC 7519), verified as RFC 8725 says: the key decides the algorithm, and who it is for, who it is from
//! and when it ends have to be said.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::{Auth, VerifyingKeys};

/// Keys that are tried for one token: a token without an id may be of any.
const MAX_TRIES: usize = 8;

/// What a token has to say.
pub struct Rules {
    audience: Vec<String>,
    issuer: Vec<String>,
    leeway: Duration,
}

/// Whose a token is, and what it says of that one.
#[derive(Debug, Clone, PartialEq)]
pub struct Bearer {
    /// Of the issuer and its subject; where there is none, of the token.
    pub account: Account,
    /// How much longer the token holds, leeway included.
    pub holds: Duration,
    pub limits: Limits,
    /// Its address, where the issuer has verified that.
    pub email: Option<String>,
}

/// A hash: what it is of is not kept.
pub type Account = [u8; 16];

/// The claim `segmill`: less than the service's own quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: Option<NonZeroU32>,
    pub bytes_per_s: Option<NonZeroU64>,
    pub pixels_per_s: Option<NonZeroU64>,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the token is no JSON Web Token that can be read")]
    Malformed,
    #[error("the token's algorithm is none of HS256, RS256, ES256 and EdDSA")]
    Algorithm,
    #[error("the token is signed with a key that is not known")]
    UnknownKey,
    #[error("the token's signature does not hold")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token does not hold yet")]
    Early,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token is from another issuer")]
    Issuer,
    #[error("the token lacks one of exp, aud and iss, or a claim can't be read")]
    Claims,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    exp: f64,
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    segmill: Option<Limits>,
    /// Of any type: other issuers' tokens are not refused for it.
    #[serde(default)]
    email: Value,
    #[serde(default)]
    email_verified: Value,
}

impl Rules {
    pub fn new(auth: &Auth) -> Self {
        Self { audience: auth.audience.clone(), issuer: auth.issuer.clone(), leeway: auth.leeway }
    }

    /// Checks a token by the clock of this machine.
    pub fn verify(&self, token: &str, keys: &VerifyingKeys) -> Result<Bearer, Refused> {
        let header = header(token)?;
        let mut refused = Refused::UnknownKey;
        for key in keys.candidates(header.alg, header.kid.as_deref()).take(MAX_TRIES) {
            match decode::<Claims>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(token_data) => return self.bearer(token, token_data.claims),
                Err(error) => refused = why(error.kind()),
            }
            // Nothing but the signature depends on the key.
            if refused != Refused::Signature {
                break;
            }
        }
        Err(refused)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&self.audience);
        validation.set_issuer(&self.issuer);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        validation
    }

    fn bearer(&self, token: &str, claims: Claims) -> Result<Bearer, Refused> {
        // RFC 7519 4.1.1: one string; the library takes a list too.
        if !self.issuer.contains(&claims.iss) {
            return Err(Refused::Issuer);
        }
        let hash = match &claims.sub {
            Some(sub) => {
                Sha256::new().chain_update(claims.iss.as_bytes()).chain_update([0]).chain_update(sub.as_bytes())
            }
            None => Sha256::new().chain_update(token.as_bytes()),
        };
        let mut account = Account::default();
        account.copy_from_slice(&hash.finalize()[..16]);
        let left = claims.exp - jsonwebtoken::get_current_timestamp() as f64;
        let holds = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX).saturating_add(self.leeway);
        let email = claims.email.as_str().filter(|_| claims.email_verified == true).map(str::to_owned);
        Ok(Bearer { account, holds, limits: claims.segmill.unwrap_or_default(), email })
    }
}

/// What can be told of a token without a key.
fn header(token: &str) -> Result<Header, Refused> {
    let header = decode_header(token).map_err(|error| match error.kind() {
        // Of a header that is read otherwise, the algorithm is what isn't known: `none` among them.
        ErrorKind::Json(_) => Refused::Algorithm,
        _ => Refused::Malformed,
    })?;
    if !matches!(header.alg, Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
        return Err(Refused::Algorithm);
    }
    // RFC 7515 4.1.11: what is critical and not understood is refused.
    if header.crit.is_some() { Err(Refused::Malformed) } else { Ok(header) }
}

fn why(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::Early,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => Refused::Claims,
        ErrorKind::InvalidAlgorithm => Refused::Algorithm,
        _ => Refused::Malformed,
    }
}
