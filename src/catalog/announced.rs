//! What of the policy is on record by an event of its own, so that no restart tells it twice.

use sqlx::Connection;

use super::{Catalog, Error};

/// A table of the policy, as the record was told of it last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announced {
    /// What it is: a word of whoever announces it.
    pub kind: String,
    /// Its id in the policy.
    pub id: String,
    /// What it says.
    pub content: String,
    /// Whether the record was told that its time is over.
    pub ended: bool,
}

impl Catalog {
    /// All that was announced and not taken back, by kind and id.
    pub async fn announced(&self) -> Result<Vec<Announced>, Error> {
        let rows: Vec<(String, String, String, bool)> =
            sqlx::query_as("SELECT kind, id, content, ended FROM announced ORDER BY kind, id")
                .fetch_all(&self.0.readers)
                .await?;
        let announced = |(kind, id, content, ended): (String, String, String, bool)| Announced {
            kind,
            id,
            content,
            ended,
        };
        Ok(rows.into_iter().map(announced).collect())
    }

    /// Notes what the record was told: these stand as they are here, those are gone.
    pub async fn announce(&self, stand: &[Announced], gone: &[Announced]) -> Result<(), Error> {
        if stand.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer().await?;
        let mut work = writer.begin_with("BEGIN IMMEDIATE").await?;
        for Announced { kind, id, content, ended } in stand {
            sqlx::query(
                "INSERT INTO announced (kind, id, content, ended) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (kind, id) DO UPDATE SET content = excluded.content, ended = excluded.ended",
            )
            .bind(kind)
            .bind(id)
            .bind(content)
            .bind(ended)
            .execute(&mut *work)
            .await?;
        }
        for Announced { kind, id, .. } in gone {
            sqlx::query("DELETE FROM announced WHERE kind = $1 AND id = $2")
                .bind(kind)
                .bind(id)
                .execute(&mut *work)
                .await?;
        }
        work.commit().await?;
        Ok(())
    }
}
