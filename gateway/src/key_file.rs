//! The file with the keys of the tokens: one a line as PASERK `k4.local`, for its owner's eyes only.
//!
//! A running server looks every few seconds whether the file has changed. Every change replaces the
//! file as a whole, so that a reader finds the old keys or the new ones and never half of them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    key_ring::{KeyRing, KeyRingError},
    settings::KeySource,
};

/// How often a running server looks at the file.
pub const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);

/// Why there are no keys.
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
    /// It holds something else than keys.
    #[error("the token key file {path} should hold one key a line, k4.local.…")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyRingError,
    },
    /// No key could be made.
    #[error(transparent)]
    NotMade(#[from] KeyRingError),
}

/// The keys from where `source` says. A file that is not there is made with a new key.
pub fn load(source: &KeySource) -> Result<KeyRing, KeyFileError> {
    let path = match source {
        KeySource::Given(ring) => return Ok(ring.clone()),
        KeySource::File(path) => path,
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
        Err(error) => Err(in_file(path)(error)),
        Ok(_) => read(path),
    }
}

/// The keys in the file.
pub fn read(path: &Path) -> Result<KeyRing, KeyFileError> {
    let mode = fs::metadata(path)
        .map_err(in_file(path))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let text = fs::read_to_string(path).map_err(in_file(path))?;
    KeyRing::parse(&text).map_err(|source| KeyFileError::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// Changes the keys in the file by `change`, and returns what that returns. If it refuses, the file
/// stays as it is. Those who change the file at the same time take turns.
pub fn change<T, E>(path: &Path, change: impl FnOnce(&mut KeyRing) -> Result<T, E>) -> Result<T, E>
where
    E: From<KeyFileError>,
{
    // Where the path is a link, the file that it leads to is replaced, and not the link.
    let path = &fs::canonicalize(path).map_err(in_file(path))?;
    let folder = File::open(folder_of(path)).map_err(in_file(path))?;
    folder.lock().map_err(in_file(path))?;
    let mut ring = read(path)?;
    let changed = change(&mut ring)?;
    let text = ring.to_text().map_err(KeyFileError::from)?;
    replace(path, &folder, &text).map_err(in_file(path))?;
    Ok(changed)
}

/// Follows the file for ever, and hands its keys on when they are not those of `ring` any more. If
/// the file can't be read, the keys stay as they are.
pub async fn follow(path: PathBuf, ring: KeyRing, on_change: impl Fn(KeyRing)) {
    let mut ring = ring;
    let mut complaint = String::new();
    loop {
        tokio::time::sleep(LOOKED_AT_EVERY).await;
        let file = path.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || self::read(&file)).await else {
            continue;
        };
        match read {
            Ok(found) => {
                complaint.clear();
                if !found.is_same(&ring) {
                    tracing::info!(
                        keys = found.keys().len(),
                        current = found.current().id().as_str(),
                        "the keys of the tokens have changed"
                    );
                    ring = found.clone();
                    on_change(found);
                }
            }
            Err(error) => {
                let error = crate::cause::chain(&error);
                if error != complaint {
                    tracing::error!(error, "the keys of the tokens stay as they are");
                    complaint = error;
                }
            }
        }
    }
}

/// Makes the file whole or not at all: it is written under another name, and linked to its own.
fn create(path: &Path) -> Result<KeyRing, KeyFileError> {
    let ring = KeyRing::generate()?;
    let folder = folder_of(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(in_file(path))?;
    let draft = draft_in(folder);
    let written = write_durably(&draft, &ring.to_text()?)
        .map(drop)
        .and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    written.and(removed).map_err(in_file(path))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(in_file(path))?;
    Ok(ring)
}

/// Puts a new file with `text` into the place of the old one, for the same owner.
fn replace(path: &Path, folder: &File, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let draft = draft_in(folder_of(path));
    let replaced = write_durably(&draft, text).and_then(|file| {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        fs::rename(&draft, path)
    });
    if replaced.is_err() {
        // What remains of the draft is a nuisance at worst; why it failed matters more.
        let _ = fs::remove_file(&draft);
    }
    replaced?;
    folder.sync_all()
}

fn write_durably(path: &Path, text: &str) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(file)
}

fn draft_in(folder: &Path) -> PathBuf {
    folder.join(format!(".token-key-{:016x}", rand::random::<u64>()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn in_file(path: &Path) -> impl Fn(io::Error) -> KeyFileError {
    |source| KeyFileError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::key_ring::Key;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn files_in(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/token.key");
        let made = load(&KeySource::File(path.clone())).unwrap();
        let folder = path.parent().unwrap();
        assert_eq!((mode(&path), mode(folder)), (0o600, 0o700));
        assert!(fs::read_to_string(&path).unwrap().starts_with("k4.local."));
        let again = load(&KeySource::File(path.clone())).unwrap();
        assert!(again.is_same(&made));
        assert_eq!(files_in(folder), 1, "the draft is gone");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        load(&KeySource::File(path.clone())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(&KeySource::File(path.clone())).err().unwrap();
        assert!(matches!(error, KeyFileError::Exposed { mode: 0o640, .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "k4.local.short\n").unwrap();
        let error = load(&KeySource::File(path)).err().unwrap();
        assert!(matches!(error, KeyFileError::Malformed { .. }));
    }

    #[test]
    fn a_change_replaces_the_file_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("token.key"), dir.path().join("link"));
        let before = load(&KeySource::File(path.clone())).unwrap();
        symlink(&path, &link).unwrap();

        let refused = change(&link, |ring| {
            ring.push(Key::generate()?)?;
            Err::<(), _>(KeyFileError::NotMade(KeyRingError::TooMany))
        });
        assert!(refused.is_err());
        assert!(read(&path).unwrap().is_same(&before));

        change(&link, |ring| {
            Ok::<_, KeyFileError>(ring.push(Key::generate()?)?)
        })
        .unwrap();
        let after = read(&path).unwrap();
        assert_eq!((after.keys().len(), mode(&path)), (2, 0o600));
        assert_eq!(after.current().id(), before.current().id());
        assert!(link.is_symlink() && !path.is_symlink());
        assert_eq!(files_in(dir.path()), 2, "no draft is left");
    }

    #[test]
    fn of_many_changes_at_once_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        load(&KeySource::File(path.clone())).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    change(&path, |ring| {
                        Ok::<_, KeyFileError>(ring.push(Key::generate()?)?)
                    })
                });
            }
        });
        assert_eq!(read(&path).unwrap().keys().len(), 9);
    }
}
