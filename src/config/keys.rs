//! The keys that tokens are verified with: read from JWKS (RFC 7517) or PEM, each bound to the one algorithm of its type,
//! so that no token can choose how it is checked (RFC 8725 3.1).

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};

/// Most keys in a set.
const MOST: usize = 64;
/// Most bytes of a key's id.
const MAX_ID: usize = 256;
/// Fewest bytes of an HS256 secret (RFC 7518 3.2).
const MIN_SECRET: usize = 32;
/// Of an RSA modulus, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Keys, in the order in which they were given. Never shown.
#[derive(Clone, Default)]
pub struct VerifyingKeys(Vec<VerifyingKey>);

/// One key.
#[derive(Clone)]
pub struct VerifyingKey {
    /// `kid`.
    pub id: Option<String>,
    /// The only algorithm that it is for: HS256, RS256, ES256 or EdDSA.
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

impl VerifyingKeys {
    /// A JWKS, a single JWK, or PEM blocks; every key must be one that can be used.
    ///
    /// # Errors
    /// A sentence that shows nothing of the keys.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let keys = if text.starts_with('{') {
            members(text.as_bytes())?.into_iter().map(|member| of_jwk(member, true)).collect::<Vec<_>>()
        } else if text.starts_with("-----BEGIN ") {
            let blocks = pem::parse_many(text).map_err(|_| "the PEM can't be read".to_owned())?;
            blocks.iter().map(of_pem).collect()
        } else {
            return Err("is neither a JWKS nor PEM".to_owned());
        };
        let keys = keys.into_iter().enumerate().map(|(n, key)| key.map_err(|wrong| format!("key {} {wrong}", n + 1)));
        Self::new(keys.collect::<Result<_, _>>()?)
    }

    /// The keys of a JWKS document from elsewhere that can be used here, and how many can't. A secret is none of them:
    /// what is published is no secret.
    pub fn published(document: &[u8]) -> Result<(Self, usize), String> {
        let members = members(document)?;
        let all = members.len();
        let keys: Vec<_> = members.into_iter().filter_map(|member| of_jwk(member, false).ok()).collect();
        let skipped = all - keys.len();
        Ok((Self::new(keys)?, skipped))
    }

    fn new(keys: Vec<VerifyingKey>) -> Result<Self, String> {
        match keys.len() {
            0 => Err("there is no key".to_owned()),
            1..=MOST => Ok(Self(keys)),
            _ => Err(format!("there are more than {MOST} keys")),
        }
    }

    /// These and those.
    pub fn and(mut self, more: Self) -> Result<Self, String> {
        self.0.extend(more.0);
        Self::new(self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a token with this header may be signed with: those of that id and those without one.
    pub fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &VerifyingKey> {
        self.0.iter().filter(move |key| {
            let same = match (id, &key.id) {
                (Some(id), Some(own)) => id == own,
                _ => true,
            };
            key.algorithm == algorithm && same
        })
    }
}

impl fmt::Debug for VerifyingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl PartialEq for VerifyingKeys {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |key: &VerifyingKey| match key.key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => (bytes.clone(), Vec::new()),
            DecodingKeyKind::RsaModulusExponent { n, e } => (n.clone(), e.clone()),
        };
        let same = |(a, b): (&VerifyingKey, &VerifyingKey)| {
            (&a.id, a.algorithm) == (&b.id, b.algorithm) && bytes(a) == bytes(b)
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

/// The keys of a JWKS, or the one key that it is.
fn members(document: &[u8]) -> Result<Vec<serde_json::Value>, String> {
    let document: serde_json::Value =
        serde_json::from_slice(document).map_err(|_| "the JSON can't be read".to_owned())?;
    match document.get("keys") {
        Some(serde_json::Value::Array(keys)) if keys.len() <= MOST => Ok(keys.clone()),
        Some(serde_json::Value::Array(_)) => Err(format!("there are more than {MOST} keys")),
        Some(_) => Err("\"keys\" is no list".to_owned()),
        None if document.get("kty").is_some() => Ok(vec![document]),
        None => Err("is no JWKS".to_owned()),
    }
}

/// `secrets`: whether it may be one.
fn of_jwk(member: serde_json::Value, secrets: bool) -> Result<VerifyingKey, &'static str> {
    if member.get("d").is_some() {
        return Err("is a private key; give the public one");
    }
    let jwk: Jwk = serde_json::from_value(member).map_err(|_| "is no JWK that is known here")?;
    let common = &jwk.common;
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    if common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
        || !common.key_operations.as_ref().is_none_or(verifies)
    {
        return Err("is not for signatures");
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::OctetKey(_) if secrets => Algorithm::HS256,
        AlgorithmParameters::OctetKey(_) => return Err("is a secret"),
        _ => return Err("is of a type or curve that is not supported"),
    };
    if common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
        return Err("is for an algorithm other than HS256, RS256, ES256 and EdDSA");
    }
    if common.key_id.as_ref().is_some_and(|id| id.len() > MAX_ID) {
        return Err("has an id that is too long");
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "can't be read")?;
    checked(VerifyingKey { id: common.key_id.clone(), algorithm, key })
}

fn of_pem(block: &pem::Pem) -> Result<VerifyingKey, &'static str> {
    if block.tag().contains("PRIVATE") {
        return Err("is a private key; give the public one");
    }
    if !matches!(block.tag(), "PUBLIC KEY" | "RSA PUBLIC KEY") {
        return Err("is no public key");
    }
    let text = pem::encode(block);
    let text = text.as_bytes();
    let rsa = || Some((Algorithm::RS256, DecodingKey::from_rsa_pem(text).ok()?));
    let curve = || Some((Algorithm::ES256, DecodingKey::from_ec_pem(text).ok()?));
    let edwards = || Some((Algorithm::EdDSA, DecodingKey::from_ed_pem(text).ok()?));
    let (algorithm, key) = rsa().or_else(curve).or_else(edwards).ok_or("is of a type that is not supported")?;
    checked(VerifyingKey { id: None, algorithm, key })
}

/// A key that can't verify is found when it is read, not with the first token.
fn checked(key: VerifyingKey) -> Result<VerifyingKey, &'static str> {
    let bits = |modulus: &[u8]| {
        let lead = modulus.iter().take_while(|byte| **byte == 0).count();
        modulus.get(lead).map_or(0, |first| (modulus.len() - lead) * 8 - first.leading_zeros() as usize)
    };
    let parses = |bytes: &[u8], algorithm: &'static dyn VerificationAlgorithm| {
        ParsedPublicKey::new(algorithm, bytes).map(drop).map_err(|_| "is no valid key of its type, or of a wrong size")
    };
    match (key.algorithm, key.key.kind()) {
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) if secret.len() < MIN_SECRET => {
            return Err("is shorter than 32 bytes");
        }
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(_)) => {}
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            let exponent = e.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            let usable = e.len() <= 8 && exponent >= 3 && exponent % 2 == 1;
            if !RSA_BITS.contains(&bits(n)) || !usable {
                return Err("is no RSA key of 2048 to 8192 bits");
            }
        }
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => parses(der, &RSA_PKCS1_2048_8192_SHA256)?,
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => parses(point, &ECDSA_P256_SHA256_FIXED)?,
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => parses(point, &ED25519)?,
        _ => return Err("is of a type that is not supported"),
    }
    Ok(key)
}
