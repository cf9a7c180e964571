//! A private SSH key: the text of an OpenSSH key file comes in (`PROTOCOL.key`), signatures come out. Ed25519, RSA and ECDSA.
//!
//! Keys with a passphrase are refused: nobody is there to type it. The key itself never leaves this file.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::wire::{Reader, put_integer, put_string, without_zeros};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// What the decoded key begins with.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Flags of a request to sign with an RSA key (RFC 8332).
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Says why a key cannot be used. Nothing of the key is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is another file.
    #[error("is not a private key in OpenSSH's format; `ssh-keygen -p -f FILE` converts other formats")]
    Format,
    /// It has a passphrase.
    #[error("has a passphrase, which nobody can type during a build: use a key without one, or an agent's socket")]
    Encrypted,
    /// Its type is another.
    #[error("is of type `{0}`, which is not supported: use ssh-ed25519, ssh-rsa or ecdsa-sha2-nistp256, 384 or 521")]
    Unsupported(String),
    /// Its parts do not fit together.
    #[error("is damaged")]
    Damaged,
}

/// A private key. `Debug` shows its type and comment.
pub struct PrivateKey {
    /// The public key as SSH encodes it.
    pub(super) public: Vec<u8>,
    /// What the key file calls it.
    pub(super) comment: Vec<u8>,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Ecdsa { key: EcdsaKeyPair, kind: Vec<u8> },
}

impl PrivateKey {
    /// Reads a key file.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let text = str::from_utf8(text).map_err(|_| KeyError::Format)?;
        let body = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(body, _)| body);
        let body: String = body.ok_or(KeyError::Format)?.split_whitespace().collect();
        let bytes = STANDARD.decode(body).map_err(|_| KeyError::Damaged)?;
        let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(KeyError::Damaged)?);
        let (cipher, _derivation) = (reader.string(), (reader.string(), reader.string()));
        if cipher.ok_or(KeyError::Damaged)? != b"none" {
            return Err(KeyError::Encrypted);
        }
        if reader.number() != Some(1) {
            return Err(KeyError::Damaged);
        }
        let public = reader.string().ok_or(KeyError::Damaged)?.to_vec();
        let mut private = Reader(reader.string().ok_or(KeyError::Damaged)?);
        if private.number() != private.number() {
            return Err(KeyError::Damaged);
        }
        let kind = private.string().ok_or(KeyError::Damaged)?;
        let signer = match kind {
            b"ssh-ed25519" => ed25519(&mut private).ok_or(KeyError::Damaged)?,
            b"ssh-rsa" => rsa(&mut private).ok_or(KeyError::Damaged)?,
            _ => match curve(kind) {
                Some(curve) => ecdsa(&mut private, kind, curve).ok_or(KeyError::Damaged)?,
                None => return Err(KeyError::Unsupported(String::from_utf8_lossy(kind).into_owned())),
            },
        };
        let comment = private.string().ok_or(KeyError::Damaged)?.to_vec();
        Ok(Self { public, comment, signer })
    }

    /// Signs some data; `None` if the key cannot, or with SHA-1 only.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (kind, bytes): (&[u8], Vec<u8>) = match &self.signer {
            Signer::Ed25519(key) => (b"ssh-ed25519", key.try_sign(data).ok()?.as_ref().to_vec()),
            Signer::Rsa(key) => {
                let (kind, encoding): (&[u8], &'static dyn RsaEncoding) = if flags & RSA_SHA2_512 != 0 {
                    (b"rsa-sha2-512", &RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    (b"rsa-sha2-256", &RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut bytes = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, data, &mut bytes).ok()?;
                (kind, bytes)
            }
            Signer::Ecdsa { key, kind } => {
                let pair = key.sign(&random, data).ok()?;
                let (r, s) = pair.as_ref().split_at_checked(pair.as_ref().len() / 2)?;
                let mut bytes = Vec::new();
                put_integer(&mut bytes, r);
                put_integer(&mut bytes, s);
                (kind, bytes)
            }
        };
        let mut signature = Vec::new();
        put_string(&mut signature, kind);
        put_string(&mut signature, &bytes);
        Some(signature)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrivateKey({})", String::from_utf8_lossy(&self.comment))
    }
}

fn ed25519(private: &mut Reader<'_>) -> Option<Signer> {
    let public = private.string()?;
    let seed = private.string()?.get(..32)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).ok().map(Signer::Ed25519)
}

fn rsa(private: &mut Reader<'_>) -> Option<Signer> {
    let public_key = PublicKeyComponents { n: private.integer()?.to_vec(), e: private.integer()?.to_vec() };
    let exponent = private.integer()?;
    let (coefficient, prime, other_prime) = (private.integer()?, private.integer()?, private.integer()?);
    let components = KeyPairComponents {
        public_key,
        d: exponent.to_vec(),
        p: prime.to_vec(),
        q: other_prime.to_vec(),
        dP: remainder(exponent, &decremented(prime)?),
        dQ: remainder(exponent, &decremented(other_prime)?),
        qInv: coefficient.to_vec(),
    };
    RsaKeyPair::from_components(&components).ok().map(|key| Signer::Rsa(Box::new(key)))
}

/// The curve of a type of ECDSA key, and the bytes of its numbers.
fn curve(kind: &[u8]) -> Option<(&'static EcdsaSigningAlgorithm, usize)> {
    match kind {
        b"ecdsa-sha2-nistp256" => Some((&ECDSA_P256_SHA256_FIXED_SIGNING, 32)),
        b"ecdsa-sha2-nistp384" => Some((&ECDSA_P384_SHA384_FIXED_SIGNING, 48)),
        b"ecdsa-sha2-nistp521" => Some((&ECDSA_P521_SHA512_FIXED_SIGNING, 66)),
        _ => None,
    }
}

fn ecdsa(
    private: &mut Reader<'_>,
    kind: &[u8],
    (algorithm, size): (&'static EcdsaSigningAlgorithm, usize),
) -> Option<Signer> {
    let (_curve, public, number) = (private.string()?, private.string()?, private.integer()?);
    let mut padded = vec![0; size.checked_sub(number.len())?];
    padded.extend_from_slice(number);
    let key = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &padded, public).ok()?;
    Some(Signer::Ecdsa { key, kind: kind.to_vec() })
}

/// Subtracts one from an odd number.
fn decremented(odd: &[u8]) -> Option<Vec<u8>> {
    let mut number = odd.to_vec();
    let last = number.last_mut().filter(|last| **last % 2 == 1)?;
    *last -= 1;
    Some(number).filter(|number| number.iter().any(|byte| *byte > 0))
}

/// Divides one number by another that is not 0 and returns what remains, by shifting and subtracting. A key is read once:
/// neither speed nor the time that it takes matters.
fn remainder(dividend: &[u8], divisor: &[u8]) -> Vec<u8> {
    let divisor = without_zeros(divisor);
    let mut rest = vec![0_u8; divisor.len() + 1];
    for bit in dividend.iter().flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let shifted = *byte << 1 | carry;
            carry = *byte >> 7;
            *byte = shifted;
        }
        let is_less = rest[0] == 0 && rest[1..] < *divisor;
        if !is_less {
            let mut borrow = false;
            for (byte, subtrahend) in rest[1..].iter_mut().zip(divisor).rev() {
                let (difference, first) = byte.overflowing_sub(*subtrahend);
                let (difference, second) = difference.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (difference, first || second);
            }
            rest[0] = rest[0].wrapping_sub(u8::from(borrow));
        }
    }
    without_zeros(&rest).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r7_remainders_are_right() {
        for (dividend, divisor) in
            [(0_u64, 1_u64), (1, 1), (12_345_678_901_234_567, 987_654_321), (255, 256), (u64::MAX, 0x8000_0001)]
        {
            let rest = remainder(&dividend.to_be_bytes(), &divisor.to_be_bytes());
            assert_eq!(rest, without_zeros(&(dividend % divisor).to_be_bytes()), "{dividend} % {divisor}");
        }
        assert_eq!(decremented(&[1, 1]), Some(vec![1, 0]));
        assert_eq!((decremented(&[1]), decremented(&[2]), decremented(&[])), (None, None, None));
    }

    #[test]
    fn r7_what_is_no_key_is_refused_without_its_text() {
        let error = |text: &str| PrivateKey::parse(text.as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(error("hunter2"), KeyError::Format);
        assert_eq!(error("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"), KeyError::Format);
        let openssh = |bytes: &[u8]| format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(bytes));
        assert_eq!(error(&openssh(b"hunter2")), KeyError::Damaged);
        assert_eq!(error(&openssh(MAGIC)), KeyError::Damaged);
        assert_eq!(error(&format!("{BEGIN}\n!!\n{END}\n")), KeyError::Damaged);
    }
}
