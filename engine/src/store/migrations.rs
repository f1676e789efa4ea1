//! What both databases' migrations share. They run by themselves when a store is opened, in sqlx's
//! own table `_sqlx_migrations`, and refuse a schema that is newer than the program or not ours.

use sqlx::{
    SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::StoreError;

/// A migration that goes one way, in one transaction.
pub(super) fn simple(version: i64, description: &'static str, sql: &'static str) -> Migration {
    Migration::new(
        version,
        description.into(),
        MigrationType::Simple,
        sql.into_sql_str(),
        false,
    )
}

/// The migrator of `migrations`.
pub(super) fn migrator(migrations: Vec<Migration>) -> Migrator {
    Migrator::with_migrations(migrations)
}

/// The refusal of a database that has tables of our names, but not from us.
pub(super) fn not_ours() -> StoreError {
    StoreError::Incompatible(
        "it has tables of the names that we use, but another program made them".to_owned(),
    )
}

/// Says what is wrong with the schema, or with the database.
pub(super) fn explain(error: MigrateError, migrator: &Migrator) -> StoreError {
    let newest = migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        MigrateError::VersionMissing(version) if version > newest => {
            StoreError::Incompatible(format!(
                "it is at version {version}, made by a newer program; this one knows versions up to {newest}"
            ))
        }
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            StoreError::Incompatible(format!(
                "its migration {version} is not ours: the database belongs to another program"
            ))
        }
        other => StoreError::Incompatible(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::{postgres, sqlite};

    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |migrations: Vec<Migration>| {
            let name = |migration: Migration| (migration.version, migration.description);
            migrations.into_iter().map(name).collect::<Vec<_>>()
        };
        let postgres = names(postgres::own_migrations());
        assert_eq!(postgres, names(sqlite::own_migrations()));
        let versions: Vec<i64> = postgres.iter().map(|(version, _)| *version).collect();
        assert!(
            versions.is_sorted_by(|one, next| one < next),
            "{versions:?}"
        );

        for database in ["postgres", "sqlite"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../schema/migrations")
                .join(database);
            let files = std::fs::read_dir(folder).unwrap().count();
            assert_eq!(files, versions.len(), "every file of {database} runs");
        }
    }
}
