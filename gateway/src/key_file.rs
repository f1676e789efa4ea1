//! The file with the key of the tokens: one line, a PASERK `k4.local`, for its owner's eyes only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use pasetors::{
    keys::{Generate, SymmetricKey},
    paserk::FormatAsPaserk,
    version4::V4,
};

use crate::settings::KeySource;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file can't be read or made.
    #[error(
        "can't use the token key file {path} (DATA_DIR or tokens.key_file can name another place)"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Others could read it.
    #[error(
        "the token key file {path} can be read by others (mode {mode:o}): run chmod 600 {path}"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds no key.
    #[error("the token key file {path} holds no key: it should be one line, k4.local.…")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no randomness for a new key.
    #[error("no key could be made: {0}")]
    NotMade(String),
}

/// The key from where `source` says. A file that is not there is made with a new key.
pub fn load(source: &KeySource) -> Result<SymmetricKey<V4>, KeyFileError> {
    let path = match source {
        KeySource::Given(key) => return Ok(key.clone()),
        KeySource::File(path) => path,
    };
    let failed = |source| KeyFileError::File {
        path: path.clone(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create(path) {
            // Another process was faster: its key is as good.
            Err(KeyFileError::File { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                read(path)
            }
            made => made,
        },
        Err(error) => Err(failed(error)),
        Ok(_) => read(path),
    }
}

fn read(path: &Path) -> Result<SymmetricKey<V4>, KeyFileError> {
    let failed = |source| KeyFileError::File {
        path: path.to_owned(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    SymmetricKey::try_from(text.trim()).map_err(|_| KeyFileError::Malformed {
        path: path.to_owned(),
    })
}

/// Makes the file whole or not at all: it is written under another name, and linked to its own.
fn create(path: &Path) -> Result<SymmetricKey<V4>, KeyFileError> {
    let failed = |source| KeyFileError::File {
        path: path.to_owned(),
        source,
    };
    let key =
        SymmetricKey::<V4>::generate().map_err(|error| KeyFileError::NotMade(error.to_string()))?;
    let mut line = String::new();
    FormatAsPaserk::fmt(&key, &mut line)
        .map_err(|error| KeyFileError::NotMade(error.to_string()))?;
    line.push('\n');

    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let draft = folder.join(format!(".token-key-{:016x}", rand::random::<u64>()));
    let written = write_durably(&draft, &line).and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    written.and(removed).map_err(failed)?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)?;
    Ok(key)
}

fn write_durably(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/token.key");
        let made = load(&KeySource::File(path.clone())).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(fs::read_to_string(&path).unwrap().starts_with("k4.local."));
        assert!(load(&KeySource::File(path.clone())).unwrap() == made);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "the draft is gone"
        );
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        load(&KeySource::File(path.clone())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(&KeySource::File(path.clone())).unwrap_err();
        assert!(matches!(error, KeyFileError::Exposed { mode: 0o640, .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "k4.local.short\n").unwrap();
        assert!(matches!(
            load(&KeySource::File(path)).unwrap_err(),
            KeyFileError::Malformed { .. }
        ));
    }
}
