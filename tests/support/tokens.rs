//! Issuers of tokens: keys of each kind, made as the tests run, and what is signed with them.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// A key that signs, and how others may know it.
pub struct Signer {
    pub algorithm: Algorithm,
    pub id: String,
    key: EncodingKey,
    /// For the ones who verify; of HS256 the secret itself.
    pub jwk: Value,
    /// PEM of the public key; empty for HS256.
    pub pem: String,
}

pub fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn block(tag: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(tag, der))
}

impl Signer {
    pub fn new(algorithm: Algorithm, id: &str) -> Self {
        let random = SystemRandom::new();
        let (key, mut jwk, pem) = match algorithm {
            Algorithm::RS256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
                let public = pair.public_key();
                let part = |part: &[u8]| base64(part);
                let jwk = json!({"kty": "RSA", "n": part(public.modulus().big_endian_without_leading_zero()),
                    "e": part(public.exponent().big_endian_without_leading_zero())});
                let private = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der>::as_der(&pair).expect("PKCS #8");
                let key = EncodingKey::from_rsa_pem(block("PRIVATE KEY", private.as_ref()).as_bytes());
                (key.expect("a key"), jwk, block("RSA PUBLIC KEY", public.as_ref()))
            }
            Algorithm::ES256 => {
                let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref()).expect("a key");
                let point = pair.public_key().as_ref();
                let jwk = json!({"kty": "EC", "crv": "P-256", "x": base64(&point[1..33]), "y": base64(&point[33..65])});
                let public = pair.public_key().as_der().expect("a public key");
                (EncodingKey::from_ec_der(private.as_ref()), jwk, block("PUBLIC KEY", public.as_ref()))
            }
            Algorithm::EdDSA => {
                let private = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
                let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).expect("a key");
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref())});
                let public = pair.public_key().as_der().expect("a public key");
                (EncodingKey::from_ed_der(private.as_ref()), jwk, block("PUBLIC KEY", public.as_ref()))
            }
            _ => {
                let mut secret = [0; 48];
                aws_lc_rs::rand::fill(&mut secret).expect("randomness");
                let jwk = json!({"kty": "oct", "k": base64(&secret)});
                (EncodingKey::from_secret(&secret), jwk, String::new())
            }
        };
        jwk["kid"] = id.into();
        Self { algorithm, id: id.to_owned(), key, jwk, pem }
    }

    /// A token that says `claims`, with this key's id.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }, claims)
    }

    pub fn sign_with(&self, header: Header, claims: &Value) -> String {
        jsonwebtoken::encode(&header, claims, &self.key).expect("it can be signed")
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

/// Whom the tests' tokens are from and for.
pub const FLAGS: [&str; 4] = ["--auth-issuer", "https://issuer.example", "--auth-audience", "segmill-test"];

/// What a good token says; `more` on top or instead.
pub fn claims(more: Value) -> Value {
    let mut claims = json!({"iss": FLAGS[1], "aud": FLAGS[3], "sub": "alice@example", "exp": now() + 600});
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// A JWKS of these.
pub fn set(signers: &[&Signer]) -> Value {
    json!({"keys": signers.iter().map(|signer| signer.jwk.clone()).collect::<Vec<_>>()})
}
