//! A backup of the embedded database, made while a server uses it. Postgres has tools of its own.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sqlx::{
    Connection as _,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};

use super::{StoreError, StoreLocation, StoreSettings};

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database is Postgres.
    #[error("the database is Postgres, which pg_dump backs up")]
    Postgres,
    /// There is something in the backup's place.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// The backup can't be written.
    #[error("can't write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The database can't be copied.
    #[error("the database can't be copied")]
    Store(#[from] StoreError),
}

/// Copies the embedded database to the new file `to`: its state at one instant, in one file, readable
/// by its owner only, and on the disk when this returns. A server may go on writing meanwhile.
pub async fn back_up(settings: &StoreSettings, to: &Path) -> Result<(), BackupError> {
    let StoreLocation::Sqlite(from) = &settings.location else {
        return Err(BackupError::Postgres);
    };
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    // A backup is complete or absent: until it is done it has another name.
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let done = write(from, &unfinished, to, settings).await;
    if done.is_err() {
        // What is left of it says nothing that the error doesn't.
        let _ = fs::remove_file(&unfinished);
    }
    done
}

async fn write(
    from: &Path,
    unfinished: &Path,
    to: &Path,
    settings: &StoreSettings,
) -> Result<(), BackupError> {
    let failed = |source| BackupError::File {
        path: to.to_owned(),
        source,
    };
    // SQLite writes into a file that is there if it is empty, and this one has the right mode.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(unfinished)
        .map_err(failed)?;
    let name = unfinished
        .to_str()
        .ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    copy(from, name, settings).await?;
    file.sync_all().map_err(failed)?;
    // Unlike a rename, a link never replaces a backup that came up meanwhile.
    fs::hard_link(unfinished, to).map_err(failed)?;
    fs::remove_file(unfinished).map_err(failed)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

/// One statement, so one state of the database, which holds no writer up.
async fn copy(from: &Path, to: &str, settings: &StoreSettings) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(from)
        .busy_timeout(settings.connect_timeout);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query("VACUUM INTO $1")
        .bind(to)
        .execute(&mut connection)
        .await?;
    Ok(connection.close().await?)
}
