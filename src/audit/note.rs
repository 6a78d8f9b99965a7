//! Signed checkpoints of the chain, as C2SP's signed notes and checkpoints are written
//! (c2sp.org/signed-note, c2sp.org/tlog-checkpoint), and the key that signs them.
//!
//! The third line is the hash of the last event of a hash chain, not the root of a Merkle tree: tools for
//! signed notes verify the signature, `pullgate log verify` the rest.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use secrecy::{ExposeSecret as _, ExposeSecretMut as _, SecretBox};

use super::error::Error;
use crate::oci::Digest;

/// The signing key within the data folder, for its owner's eyes alone.
const KEY_FILE: &str = "audit.key";
/// Its public half, and those of keys that signed before it: a verifier key a line.
pub(crate) const PUBLIC_FILE: &str = "audit.pub";
/// What follows the log's name in notes of removals, so that none passes for a checkpoint.
const REMOVED: &str = " removed";
const SECRET: &str = "PRIVATE+KEY";
/// Ed25519, as signed notes number it.
const TYPE: u8 = 1;
/// No note or key file is longer, by far.
const LONGEST: usize = 64 << 10;

/// A public key with the name of the log that it signs for: `<name>+<hash>+<key>`.
#[derive(Clone, Eq, PartialEq)]
pub struct VerifierKey {
    name: String,
    key: [u8; 32],
}

impl VerifierKey {
    fn of(key: [u8; 32]) -> Self {
        // Two logs never have the same name, and the name gives nothing of the host away.
        let name = Digest::sha256(&key).hex().chars().take(16).collect::<String>();
        Self { name: format!("pullgate/audit/{name}"), key }
    }

    /// Four bytes by which signatures name it.
    fn hash(&self) -> [u8; 4] {
        let mut text = self.name.as_bytes().to_vec();
        text.push(b'\n');
        text.push(TYPE);
        text.extend(self.key);
        let mut hash = [0; 4];
        hash.iter_mut().zip(Digest::sha256(&text).bytes()).for_each(|(to, from)| *to = *from);
        hash
    }

    fn hash_hex(&self) -> String {
        self.hash().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The keys in a file of verifier keys, one a line.
    ///
    /// # Errors
    /// What is wrong with the first line that is none.
    pub fn all_in(text: &str) -> Result<Vec<Self>, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::parse).collect()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![TYPE];
        key.extend(self.key);
        write!(f, "{}+{}+{}", self.name, self.hash_hex(), STANDARD.encode(key))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no verifier key; expected <name>+<hash>+<key> as `pullgate serve` prints it and \
                 {PUBLIC_FILE} holds it"
            )
        };
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let bytes = STANDARD.decode(key).map_err(|_| wrong())?;
        let (Some(&TYPE), Some(key)) = (bytes.first(), bytes.get(1..).and_then(|key| key.try_into().ok()))
        else {
            return Err(wrong());
        };
        let key = Self { name: name.to_owned(), key };
        if key.name.is_empty() || key.name.contains(char::is_whitespace) || key.hash_hex() != hash {
            return Err(wrong());
        }
        Ok(key)
    }
}

/// What a signed note says of a log: up to `size`, its chain ends in this hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The place of the last event covered.
    pub size: i64,
    /// That event's hash, lower-case hex.
    pub hash: String,
}

/// Why a note proves nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoteError {
    /// It is no signed note, or no checkpoint of a log.
    #[error("it is no signed checkpoint")]
    Malformed,
    /// The signature does not fit the text.
    #[error("its signature is wrong")]
    Signature,
    /// None of the keys given signed it.
    #[error("it is signed by a key that is not known here")]
    Unknown,
}

impl Checkpoint {
    /// Reads a note that one of the keys signed.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn open(note: &str, keys: &[VerifierKey]) -> Result<Self, NoteError> {
        let text = signed_text(note, "", keys)?;
        let mut lines = text.lines().skip(1);
        let size = number(lines.next())?;
        let hash = hash(lines.next())?;
        Ok(Self { size, hash })
    }

    /// The notes in a file: one as it is, or events of a log, one a line, of which some hold one.
    pub fn notes_in(text: &str) -> Vec<String> {
        if !text.trim_start().starts_with('{') {
            return vec![text.trim_start().to_owned()];
        }
        let note = |line: &str| -> Option<String> {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(event.get("checkpoint")?.get("note")?.as_str()?.to_owned())
        };
        text.lines().filter_map(note).collect()
    }
}

/// What a signed note says of a removal: between these places exactly the runs of a list are gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Removal {
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// The hash of the list, lower-case hex.
    pub(crate) sha256: String,
    /// The event before the one that says so: its place, and its hash.
    pub(crate) before: Checkpoint,
}

impl Removal {
    /// Reads a note that one of the keys signed.
    pub(crate) fn open(note: &str, keys: &[VerifierKey]) -> Result<Self, NoteError> {
        let text = signed_text(note, REMOVED, keys)?;
        let mut lines = text.lines().skip(1);
        let (first, last, sha256) = (number(lines.next())?, number(lines.next())?, hash(lines.next())?);
        let before = Checkpoint { size: number(lines.next())?, hash: hash(lines.next())? };
        Ok(Self { first, last, sha256, before })
    }
}

/// A note's text, if it begins with the log's name and this, and one of the log's keys signed it.
fn signed_text(note: &str, what: &str, keys: &[VerifierKey]) -> Result<String, NoteError> {
    let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Malformed)?;
    let text = format!("{text}\n");
    let origin = text.lines().next().and_then(|line| line.strip_suffix(what)).ok_or(NoteError::Malformed)?;
    let mut signed = false;
    for line in signatures.lines().take(100) {
        let mut words = line.strip_prefix("\u{2014} ").ok_or(NoteError::Malformed)?.splitn(2, ' ');
        let (Some(name), Some(signature)) = (words.next(), words.next()) else {
            return Err(NoteError::Malformed);
        };
        let signature = STANDARD.decode(signature).map_err(|_| NoteError::Malformed)?;
        let (id, signature) = signature.split_at_checked(4).ok_or(NoteError::Malformed)?;
        let known = keys.iter().find(|key| key.name == name && key.hash() == id && key.name == origin);
        if let Some(key) = known {
            let key = UnparsedPublicKey::new(&ED25519, key.key);
            key.verify(text.as_bytes(), signature).map_err(|_| NoteError::Signature)?;
            signed = true;
        }
    }
    if signed { Ok(text) } else { Err(NoteError::Unknown) }
}

fn number(line: Option<&str>) -> Result<i64, NoteError> {
    let number = line.and_then(|line| line.parse::<i64>().ok());
    number.filter(|number| *number >= 0 && Some(&*number.to_string()) == line).ok_or(NoteError::Malformed)
}

/// A hash in base64, as lower-case hex.
fn hash(line: Option<&str>) -> Result<String, NoteError> {
    let hash = line.and_then(|line| STANDARD.decode(line).ok()).filter(|hash| hash.len() == 32);
    Ok(hash.ok_or(NoteError::Malformed)?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A hash in lower-case hex, as base64.
fn base64(hash: &str) -> String {
    let hash = format!("sha256:{hash}").parse::<Digest>().map(|digest| STANDARD.encode(digest.bytes()));
    hash.unwrap_or_default()
}

/// Who signs checkpoints and removals. Its key is never printed.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    key: VerifierKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.key)
    }
}

impl Signer {
    /// The key of a data folder, made when there is none; its public half is put beside it.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let file = folder.join(KEY_FILE);
        let failed =
            |path: PathBuf| move |error: Errno| Error::Key { path, detail: error.to_string().into() };
        let found = read_secret(&file).map_err(failed(file.clone()))?;
        let seed = match found {
            Some(text) => parse_secret(&text).ok_or_else(|| Error::Key {
                path: file.clone(),
                detail: "it holds no key; put the right one back, or remove it to begin with a new one"
                    .into(),
            })?,
            None => make(&file).map_err(failed(file.clone()))?,
        };
        let broken = |_| Error::Key { path: file.clone(), detail: "its key cannot be used".into() };
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).map_err(broken)?;
        let mut public = [0; 32];
        public.iter_mut().zip(pair.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        let signer = Self { pair, key: VerifierKey::of(public) };
        let file = folder.join(PUBLIC_FILE);
        publish(&file, &signer.key).map_err(failed(file.clone()))?;
        Ok(signer)
    }

    pub(crate) fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// The signed note for a chain that ends at this place in this hash (lower-case hex).
    pub(crate) fn note(&self, size: i64, hash: &str) -> String {
        self.sign(&format!("{}\n{size}\n{}\n", self.key.name, base64(hash)))
    }

    /// The signed note for a removal.
    pub(crate) fn removal(&self, removal: &Removal) -> String {
        let Removal { first, last, sha256, before } = removal;
        let (list, head) = (base64(sha256), base64(&before.hash));
        self.sign(&format!("{}{REMOVED}\n{first}\n{last}\n{list}\n{}\n{head}\n", self.key.name, before.size))
    }

    fn sign(&self, text: &str) -> String {
        let mut signature = self.key.hash().to_vec();
        signature.extend(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n\u{2014} {} {}\n", self.key.name, STANDARD.encode(signature))
    }
}

fn make(file: &Path) -> Result<SecretBox<[u8; 32]>, Errno> {
    let mut seed = SecretBox::new(Box::new([0; 32]));
    aws_lc_rs::rand::fill(seed.expose_secret_mut()).map_err(|_| Errno::IO)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).map_err(|_| Errno::IO)?;
    let mut public = [0; 32];
    public.iter_mut().zip(pair.public_key().as_ref()).for_each(|(to, from)| *to = *from);
    let key = VerifierKey::of(public);
    let mut typed = SecretBox::new(Box::new([TYPE; 33]));
    for (to, from) in typed.expose_secret_mut().iter_mut().skip(1).zip(seed.expose_secret()) {
        *to = *from;
    }
    // 33 bytes are 44 characters; the text is made in place, so that no copy stays behind.
    let mut text = SecretBox::new(Box::new([0; 256]));
    let head = format!("{SECRET}+{}+{}+", key.name, key.hash_hex());
    let buffer = text.expose_secret_mut();
    let length = head.len() + 44;
    let (start, rest) = buffer.split_at_mut_checked(head.len()).ok_or(Errno::NOSPC)?;
    start.copy_from_slice(head.as_bytes());
    STANDARD.encode_slice(typed.expose_secret(), rest).map_err(|_| Errno::NOSPC)?;
    *buffer.get_mut(length).ok_or(Errno::NOSPC)? = b'\n';
    let text = text.expose_secret().get(..=length).unwrap_or_default();
    write_new(file, text, Mode::RUSR | Mode::WUSR)?;
    Ok(seed)
}

fn parse_secret(text: &SecretBox<[u8; 256]>) -> Option<SecretBox<[u8; 32]>> {
    let bytes = text.expose_secret();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?.trim().strip_prefix(SECRET)?.strip_prefix('+')?;
    let mut parts = text.splitn(3, '+');
    let (_, _, key) = (parts.next()?, parts.next()?, parts.next()?);
    let mut typed = SecretBox::new(Box::new([0; 36]));
    let length = STANDARD.decode_slice(key, typed.expose_secret_mut()).ok()?;
    let (kind, key) = typed.expose_secret().get(..length)?.split_first()?;
    if *kind != TYPE || key.len() != 32 {
        return None;
    }
    let mut seed = SecretBox::new(Box::new([0; 32]));
    seed.expose_secret_mut().copy_from_slice(key);
    Some(seed)
}

fn read_secret(file: &Path) -> Result<Option<SecretBox<[u8; 256]>>, Errno> {
    let file = match rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let mut text = SecretBox::new(Box::new([0; 256]));
    rustix::io::pread(&file, text.expose_secret_mut(), 0)?;
    Ok(Some(text))
}

/// Puts the key's public half into its file, after those of earlier keys.
fn publish(file: &Path, key: &VerifierKey) -> Result<(), Errno> {
    let line = key.to_string();
    let known = match read_text(file) {
        Err(Errno::NOENT) => String::new(),
        other => other?,
    };
    if known.lines().any(|known| known.trim() == line) {
        return Ok(());
    }
    let text = format!("{known}{line}\n");
    write_new(file, text.as_bytes(), Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)
}

fn read_text(file: &Path) -> Result<String, Errno> {
    let file = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; LONGEST];
    let length = rustix::io::pread(&file, &mut bytes, 0)?;
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// The verifier keys beside the log of this data folder.
pub(crate) fn published(folder: &Path) -> Result<Vec<VerifierKey>, Error> {
    let path = folder.join(PUBLIC_FILE);
    let failed = |detail: String| Error::Key { path: path.clone(), detail: detail.into() };
    let text = read_text(&path).map_err(|error| failed(error.to_string()))?;
    VerifierKey::all_in(&text).map_err(failed)
}

/// Writes a file whole or not at all.
fn write_new(file: &Path, bytes: &[u8], mode: Mode) -> Result<(), Errno> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let part = file.with_extension("part");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let written: OwnedFd = rustix::fs::open(&part, flags, mode)?;
    rustix::fs::fchmod(&written, mode)?;
    super::spill::write_all(&written, bytes, 0)?;
    rustix::fs::fsync(&written)?;
    rustix::fs::rename(&part, file)?;
    rustix::fs::fsync(rustix::fs::open(folder, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_its_public_half_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::open(folder.path()).unwrap();
        let again = Signer::open(folder.path()).unwrap();
        assert_eq!(signer.key(), again.key());
        let secret = folder.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(published(folder.path()).unwrap(), [signer.key().clone()]);
        let text = std::fs::read_to_string(&secret).unwrap();
        let key = text.trim().rsplit('+').next().unwrap();
        assert!(!format!("{signer:?}").contains(key), "{signer:?}");
        // A lost key is replaced, and what the former one signed can still be verified.
        let note = signer.note(5, super::super::canonical::GENESIS);
        std::fs::remove_file(&secret).unwrap();
        let newer = Signer::open(folder.path()).unwrap();
        assert_ne!(newer.key(), signer.key());
        let keys = published(folder.path()).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(Checkpoint::open(&note, &keys).unwrap().size, 5);
        std::fs::write(&secret, "PRIVATE+KEY+nonsense").unwrap();
        let wrong = Signer::open(folder.path()).unwrap_err().to_string();
        assert!(wrong.contains("audit.key") && wrong.contains("put the right one back"), "{wrong}");
    }

    #[test]
    fn a_note_is_read_as_others_write_it() {
        // The example of c2sp.org/tlog-checkpoint has this shape; this one is signed by Go's
        // golang.org/x/mod/sumdb/note with its documented test key.
        let key: VerifierKey =
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let signature = STANDARD
            .decode("x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=")
            .unwrap();
        assert_eq!(signature.get(..4).unwrap(), key.hash());
        let public = UnparsedPublicKey::new(&ED25519, key.key);
        public.verify(text.as_bytes(), signature.get(4..).unwrap()).unwrap();
        assert_eq!(key.to_string(), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    }

    #[test]
    fn a_note_that_was_changed_or_signed_by_another_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::open(folder.path()).unwrap();
        let keys = [signer.key().clone()];
        let note = signer.note(7, &"ab".repeat(32));
        assert_eq!(Checkpoint::open(&note, &keys).unwrap(), Checkpoint { size: 7, hash: "ab".repeat(32) });
        let before = Checkpoint { size: 7, hash: "cd".repeat(32) };
        let removal = Removal { first: 1, last: 256, sha256: "ab".repeat(32), before };
        let removed = signer.removal(&removal);
        assert_eq!(Removal::open(&removed, &keys), Ok(removal));
        assert_eq!(Removal::open(&removed.replace("\n256\n", "\n255\n"), &keys), Err(NoteError::Signature));
        assert_eq!(Removal::open(&note, &keys), Err(NoteError::Malformed), "a checkpoint is no removal");
        assert!(Checkpoint::open(&removed, &keys).is_err(), "nor the other way round");
        let other = tempfile::tempdir().unwrap();
        let other = Signer::open(other.path()).unwrap();
        assert_eq!(Checkpoint::open(&note, &[other.key().clone()]), Err(NoteError::Unknown));
        assert_eq!(Checkpoint::open(&note.replace("\n7\n", "\n8\n"), &keys), Err(NoteError::Signature));
        for malformed in ["", "a\nb\nc\n", "a\n07\nqqqq\n\n\u{2014} x y\n", &note.replace('\u{2014}', "--")] {
            assert_eq!(Checkpoint::open(malformed, &keys), Err(NoteError::Malformed), "{malformed:?}");
        }
        let line = serde_json::json!({"kind": "checkpoint", "checkpoint": {"note": note}}).to_string();
        assert_eq!(Checkpoint::notes_in(&format!("{{}}\n{line}\n")), std::slice::from_ref(&note));
        assert_eq!(Checkpoint::notes_in(&note), [note]);
        for wrong in
            ["", "a+b", "a+00000000+AAAA", "a b+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
        {
            assert!(wrong.parse::<VerifierKey>().unwrap_err().contains("verifier key"), "{wrong}");
        }
    }
}
