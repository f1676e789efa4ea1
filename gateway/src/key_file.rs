//! The file with the keys of the tokens: one a line as PASERK `k4.local`, for its owner's eyes only.
//!
//! Our own file may be read by nobody else. A file of root's is a secret that was mounted for us, whose
//! mode we can't choose: as with Postgres its group may read it (0640, and Kubernetes' 0440 with an
//! `fsGroup`). Everybody in our container may read what Docker and Kubernetes mount by default (0444, or
//! 0644 in memory); that is taken, with a warning. Nobody but its owner may ever write to it.
//!
//! A running server looks every few seconds whether the file has changed. Every change replaces the
//! file as a whole, so that a reader finds the old keys or the new ones and never half of them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
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
    /// Others could read it, or write to it.
    #[error("the token key file {path} can be {deed} by others (mode {mode:o}): {remedy}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// What others could do.
        deed: &'static str,
        /// Its permissions.
        mode: u32,
        /// What to do.
        remedy: String,
    },
    /// It is a folder, a device or the like.
    #[error("the token key file {path} is not a file")]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// A folder that somebody named is not there.
    #[error("can't make the token key file {path}: its folder does not exist")]
    NoFolder {
        /// The file.
        path: PathBuf,
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
        Ok(_) => read(path).inspect(|_| warn_of_readers(path)),
    }
}

/// The keys in the file.
pub fn read(path: &Path) -> Result<KeyRing, KeyFileError> {
    let found = fs::metadata(path).map_err(in_file(path))?;
    if !found.is_file() {
        return Err(KeyFileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mode = found.permissions().mode() & 0o777;
    match standing(found.uid(), mode, is_in_memory(path)) {
        Standing::Private | Standing::Mounted => {}
        Standing::Exposed { deed } => {
            let remedy = if found.uid() == ROOT {
                format!(
                    "run chmod 640 {}, or mount it with mode 0440",
                    path.display()
                )
            } else {
                format!("run chmod 600 {}", path.display())
            };
            return Err(KeyFileError::Exposed {
                path: path.to_owned(),
                deed,
                mode,
                remedy,
            });
        }
    }
    let text = fs::read_to_string(path).map_err(in_file(path))?;
    // Some editors begin a file with a mark of its encoding.
    KeyRing::parse(text.trim_start_matches('\u{feff}')).map_err(|source| KeyFileError::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// The user who owns what is mounted.
const ROOT: u32 = 0;

/// Who else can get at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody but its owner, and the group that root chose.
    Private,
    /// Everybody here can read what was mounted.
    Mounted,
    /// Others can do what they must not.
    Exposed { deed: &'static str },
}

/// The standing of a file of this owner and mode.
#[expect(
    clippy::verbose_bit_mask,
    reason = "permissions are written in octal digits"
)]
const fn standing(owner: u32, mode: u32, is_in_memory: bool) -> Standing {
    if mode & 0o022 != 0 {
        return Standing::Exposed { deed: "changed" };
    }
    if mode & 0o077 == 0 || owner == ROOT && mode & 0o037 == 0 {
        return Standing::Private;
    }
    let is_read_only = mode & 0o222 == 0;
    if owner == ROOT && (is_read_only || is_in_memory) {
        return Standing::Mounted;
    }
    Standing::Exposed { deed: "read" }
}

/// Whether the file is in memory, where container engines keep what they mount as secrets.
#[cfg(target_os = "linux")]
fn is_in_memory(path: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    rustix::fs::statfs(path)
        .is_ok_and(|found| matches!(u64::try_from(found.f_type), Ok(TMPFS | RAMFS)))
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &Path) -> bool {
    false
}

/// Warns if more people can read the file than need to.
fn warn_of_readers(path: &Path) {
    let Ok(found) = fs::metadata(path) else {
        return;
    };
    let mode = found.permissions().mode() & 0o777;
    if standing(found.uid(), mode, is_in_memory(path)) == Standing::Mounted {
        tracing::warn!(
            file = %path.display(),
            mode = format_args!("{mode:o}"),
            "everybody in this container can read the token key file: mount it with mode 0440 and our group"
        );
    }
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
    if !folder.exists() {
        return Err(KeyFileError::NoFolder {
            path: path.to_owned(),
        });
    }
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

/// Puts a new file with `text` into the place of the old one, for the same owner and the same readers.
fn replace(path: &Path, folder: &File, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let draft = draft_in(folder_of(path));
    let replaced = write_durably(&draft, text).and_then(|file| {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(old.permissions())?;
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
        let folder = dir.path();
        let path = folder.join("token.key");
        let made = load(&KeySource::File(path.clone())).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(fs::read_to_string(&path).unwrap().starts_with("k4.local."));
        let again = load(&KeySource::File(path.clone())).unwrap();
        assert!(again.is_same(&made));
        assert_eq!(files_in(folder), 1, "the draft is gone");
    }

    #[test]
    fn who_may_get_at_a_file_depends_on_its_owner() {
        use Standing::{Exposed, Mounted, Private};
        const US: u32 = 10_001;
        const READ: Standing = Exposed { deed: "read" };
        const CHANGED: Standing = Exposed { deed: "changed" };
        let check = |owner: u32, mode: u32, on_disk: Standing, in_memory: Standing| {
            let found = [false, true].map(|is_in_memory| standing(owner, mode, is_in_memory));
            assert_eq!(found, [on_disk, in_memory], "{mode:o} of {owner}");
        };
        for private in [0o600, 0o400, 0o700] {
            check(US, private, Private, Private);
            check(ROOT, private, Private, Private);
        }
        // Kubernetes with an fsGroup; what Postgres takes of root.
        for of_group in [0o440, 0o640] {
            check(US, of_group, READ, READ);
            check(ROOT, of_group, Private, Private);
        }
        // Docker's default, and Kubernetes'.
        check(US, 0o444, READ, READ);
        check(ROOT, 0o444, Mounted, Mounted);
        check(US, 0o644, READ, READ);
        check(ROOT, 0o644, READ, Mounted);
        for writable in [0o620, 0o660, 0o602, 0o622, 0o666, 0o777, 0o664] {
            check(US, writable, CHANGED, CHANGED);
            check(ROOT, writable, CHANGED, CHANGED);
        }
    }

    #[test]
    fn a_key_is_found_however_it_was_mounted_and_edited() {
        let dir = tempfile::tempdir().unwrap();
        let made = load(&KeySource::File(dir.path().join("made.key"))).unwrap();
        let text = made.to_text().unwrap();
        let text = text.trim();
        // As Kubernetes does: the name is a link to a link's file, which an update replaces.
        let version = dir.path().join("..2026");
        fs::create_dir(&version).unwrap();
        symlink("..2026", dir.path().join("..data")).unwrap();
        symlink("..data/token.key", dir.path().join("token.key")).unwrap();
        for (before, after) in [
            ("", ""),
            ("", "\n"),
            ("", "\r\n"),
            ("\u{feff}", "\r\n\r\n"),
            (" ", " \n"),
        ] {
            let file = version.join("token.key");
            fs::write(&file, format!("{before}{text}{after}")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
            let path = dir.path().join("token.key");
            assert!(load(&KeySource::File(path)).unwrap().is_same(&made));
            fs::remove_file(&file).unwrap();
        }
        let folder = load(&KeySource::File(version)).err().unwrap();
        assert!(matches!(folder, KeyFileError::NotAFile { .. }));
        let nowhere = dir.path().join("typo/token.key");
        let error = load(&KeySource::File(nowhere.clone())).err().unwrap();
        assert!(matches!(error, KeyFileError::NoFolder { .. }));
        assert!(!nowhere.parent().unwrap().exists());
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        load(&KeySource::File(path.clone())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        let error = load(&KeySource::File(path.clone())).err().unwrap();
        assert!(matches!(error, KeyFileError::Exposed { mode: 0o660, .. }));
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
