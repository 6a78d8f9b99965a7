//! Archives by their first bytes: what a runtime would unpack, whatever it is called.

/// How many bytes tell.
pub const ARCHIVE_HEAD: u64 = 512;

/// What a runtime unpacks as a layer, by the magic numbers that docker and podman go by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Archive {
    /// bzip2.
    Bzip2,
    /// gzip.
    Gzip,
    /// A tar that is not compressed.
    Tar,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Archive {
    /// What begins with these bytes, [`ARCHIVE_HEAD`] of them or all there are; none where it is none.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some(Self::Xz),
            // A frame, or one that readers skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => is_tar(head).then_some(Self::Tar),
        }
    }

    /// As people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Tar => "tar",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// Old archives have no magic number, but all have a checksum: readers go by that.
fn is_tar(head: &[u8]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let (Some(header), Some(field)) = (head.get(..512), head.get(FIELD)) else { return false };
    if header.get(257..262) == Some(b"ustar") {
        return true;
    }
    let digits: String = field.iter().map(|byte| char::from(*byte)).collect();
    let digits = digits.trim_matches(['\0', ' ']);
    let Ok(stated) = i64::from_str_radix(digits, 8) else { return false };
    // The checksum counts its own field as blanks; some writers count bytes as signed.
    let sum = |value: fn(u8) -> i64| -> i64 {
        let at = |(at, byte): (usize, &u8)| if FIELD.contains(&at) { i64::from(b' ') } else { value(*byte) };
        header.iter().enumerate().map(at).sum()
    };
    stated == sum(i64::from) || stated == sum(|byte| i64::from(byte.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(magic: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..5].copy_from_slice(b"a.txt");
        header[257..257 + magic.len()].copy_from_slice(magic);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    #[test]
    fn what_a_runtime_unpacks_is_known_by_its_first_bytes() {
        let known: [(&[u8], Archive); 6] = [
            (b"BZh91AY", Archive::Bzip2),
            (&[0x1f, 0x8b, 8, 0], Archive::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Archive::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd, 4], Archive::Zstd),
            (&[0x5a, 0x2a, 0x4d, 0x18, 4], Archive::Zstd),
            (&tar(b"ustar\0"), Archive::Tar),
        ];
        for (head, archive) in known {
            assert_eq!(Archive::of(head), Some(archive));
        }
        assert_eq!(Archive::of(&tar(b"")), Some(Archive::Tar), "as tar was before POSIX");
    }

    #[test]
    fn text_is_no_archive() {
        for text in
            ["", "{}", "{\"signed\":true}", "SPDXVersion: SPDX-2.3\n", &"x".repeat(600), &"\0".repeat(512)]
        {
            assert_eq!(Archive::of(text.as_bytes()), None, "{text}");
        }
    }
}
