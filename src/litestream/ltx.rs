//! An LTX file without pages, as a mark of where a replica ends. Must only stand for what a snapshot there has: it holds no data.
//!
//! 0.5 fetches the newest file of its replica to begin after it, and where that one is damaged it tries for ever and
//! replicates nothing. With a local file that ends at the same transaction it has no need to fetch it, and since that file's
//! salts are no WAL's, it begins with a snapshot (`db.go`: `checkDatabaseBehindReplica`, `verifyWithExecutor`).

use std::time::{SystemTime, UNIX_EPOCH};

/// No checksum of the whole database is kept (`HeaderFlagNoChecksum`).
const NO_CHECKSUM: u32 = 1 << 1;
/// Every checksum of the format has its highest bit set.
const CHECKSUM: u64 = 1 << 63;
/// A WAL's own header, after which nothing has been read.
const WAL_HEADER: u64 = 32;
/// No WAL's, so that Litestream begins with a snapshot, and that the file is known for what it is.
pub const SALTS: [u8; 8] = [0xff; 8];

/// The file's name in `ltx/0`.
pub fn name(txid: u64) -> String {
    format!("{txid:016x}-{txid:016x}.ltx")
}

/// The file's content, for a database of this page size and so many pages (github.com/superfly/ltx, version 3).
pub fn without_pages(txid: u64, page_size: u32, pages: u32, now: SystemTime) -> Vec<u8> {
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or_default());
    let mut file = b"LTX1".to_vec();
    for word in [NO_CHECKSUM, page_size, pages] {
        file.extend(word.to_be_bytes());
    }
    for word in [txid, txid, millis, 0, WAL_HEADER, 0] {
        file.extend(word.to_be_bytes());
    }
    // Salts, then a node's number, up to the header's 100 bytes.
    file.extend(SALTS);
    file.resize(100, 0);
    // The empty page header ends the pages; an index with its end alone is one byte long; no checksum of the database.
    file.extend([0; 6]);
    file.push(0);
    file.extend(1_u64.to_be_bytes());
    file.extend(0_u64.to_be_bytes());
    let checksum = CHECKSUM | crc64(&file);
    file.extend(checksum.to_be_bytes());
    file
}

/// CRC-64 with the polynomial of ISO 3309, as Go's `hash/crc64` computes it.
fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;
    let step = |crc: u64, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(u64::MAX, |crc, byte| (0..8).fold(crc ^ u64::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_gos() {
        // From Go's own tests of `hash/crc64`.
        for (text, crc) in [("", 0), ("a", 0x3420_0000_0000_0000), ("abc", 0x3776_c420_0000_0000), ("hello world", 0xb9cf_3f57_2ad9_ac3e)] {
            assert_eq!(crc64(text.as_bytes()), crc, "{text}");
        }
    }

    #[test]
    fn the_mark_is_as_long_as_its_parts() {
        let file = without_pages(42, 4096, 7, SystemTime::now());
        assert_eq!(file.len(), 100 + 6 + 9 + 16);
        assert_eq!(name(42), "000000000000002a-000000000000002a.ltx");
    }
}
