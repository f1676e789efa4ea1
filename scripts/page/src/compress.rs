//! The brotli and gzip neighbours that the gateway sends instead of a file where the browser takes them.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::site::File;

/// A file with its compressed neighbours.
pub(crate) struct Served {
    /// The file.
    pub(crate) file: File,
    /// Its bytes as brotli.
    pub(crate) brotli: Vec<u8>,
    /// Its bytes as gzip.
    pub(crate) gzip: Vec<u8>,
}

/// Compresses each of `files` as far as it goes. All of them are text or wasm, so all gain by it.
pub(crate) fn with_neighbours(files: Vec<File>) -> Result<Vec<Served>> {
    files
        .into_iter()
        .map(|file| {
            let brotli =
                brotli(&file.bytes).with_context(|| format!("can't compress {}", file.path))?;
            let gzip =
                gzip(&file.bytes).with_context(|| format!("can't compress {}", file.path))?;
            Ok(Served { file, brotli, gzip })
        })
        .collect()
}

fn brotli(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let params = brotli::enc::BrotliEncoderParams {
        quality: 11,
        lgwin: 22,
        ..Default::default()
    };
    let mut compressed = Vec::new();
    brotli::BrotliCompress(&mut &bytes[..], &mut compressed, &params)?;
    Ok(compressed)
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn neighbours_unpack_to_the_file() {
        let bytes = "the balance falls ".repeat(500).into_bytes();
        let served = with_neighbours(vec![File {
            path: "a.css".into(),
            bytes: bytes.clone(),
        }])
        .unwrap()
        .remove(0);
        assert!(served.brotli.len() < 100 && served.gzip.len() < 200);

        let mut unpacked = Vec::new();
        brotli::BrotliDecompress(&mut &served.brotli[..], &mut unpacked).unwrap();
        assert_eq!(unpacked, bytes);
        unpacked.clear();
        flate2::read::GzDecoder::new(&served.gzip[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, bytes);
    }
}
