//! The tables, and what they are made anew for.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

/// Another number, and every database is made anew. Raise it whenever what is counted changes.
const VERSION: i64 = 1;
const TABLES: &str = include_str!("schema.sql");
const CORRUPT: &str = "11";
const NOT_A_DATABASE: &str = "26";

pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // It can be made anew: what a power cut takes is counted again.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(2))
        .pragma("journal_size_limit", "4194304")
        .disable_statement_logging()
}

/// Opens the database to write it; makes the tables where they are absent or of another version, the
/// file where it is damaged.
pub(super) async fn open(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    match connect(path).await {
        Err(error) if is_damaged(&error) => {
            tracing::warn!(%error, path = %path.display(), "the review database is damaged and is made anew from the audit log");
            remove(path);
            connect(path).await
        }
        opened => opened,
    }
}

async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = options(path).connect().await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await?;
    if version != VERSION {
        reset(&mut connection).await?;
    }
    Ok(connection)
}

/// Empties it, but for who looked when.
pub(super) async fn reset(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut work = connection.begin_with("BEGIN IMMEDIATE").await?;
    let tables: Vec<(String,)> = sqlx::query_as(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'visit' AND name NOT LIKE 'sqlite_%'",
    )
    .fetch_all(&mut *work)
    .await?;
    for (table,) in tables {
        let quoted = table.replace('"', "\"\"");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TABLE \"{quoted}\""))).execute(&mut *work).await?;
    }
    sqlx::raw_sql(TABLES).execute(&mut *work).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {VERSION}")))
        .execute(&mut *work)
        .await?;
    work.commit().await
}

/// Removes a database nobody has open any more.
pub(super) fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = rustix::fs::unlink(std::path::PathBuf::from(name).as_path());
    }
}

/// Whether the file is no database any more.
pub(super) fn is_damaged(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // Extended codes (SQLITE_CORRUPT_INDEX) carry the primary one in their low byte.
    let primary = code.and_then(|code| code.parse::<u32>().ok()).map(|code| (code & 0xff).to_string());
    matches!(primary.as_deref(), Some(CORRUPT | NOT_A_DATABASE))
}

pub(super) fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}
