//! Room for newcomers: the database is bounded, and no count is lost.

use sqlx::sqlite::SqliteConnection;

use super::{Projector, Result, client, group};
use crate::review::rows::{ClientRow, GroupRow, OTHERS, group_key};
use crate::review::values::{GroupKind, State};

impl Projector {
    /// Makes room: what was met once and nobody reviewed is counted together from now on, else what
    /// was met least lately and nobody reviewed, else what was dealt with.
    pub(super) async fn forget_groups(&mut self, work: &mut SqliteConnection) -> Result<()> {
        self.flush(work).await?;
        let many = (self.bounds.groups / 64).max(1);
        let mut gone = Vec::new();
        for sql in [
            "SELECT * FROM refused WHERE count = 1 AND state = 'new' AND note IS NULL AND kind <> 'others' \
             ORDER BY last, id LIMIT $1",
            "SELECT * FROM refused WHERE state = 'new' AND note IS NULL AND kind <> 'others' \
             ORDER BY last, id LIMIT $1",
            "SELECT * FROM refused WHERE kind <> 'others' ORDER BY state = 'acknowledged', last, id LIMIT $1",
        ] {
            gone = sqlx::query(sql).bind(many).fetch_all(&mut *work).await?;
            if !gone.is_empty() {
                break;
            }
        }
        let mut others: Option<GroupRow> = None;
        let key = group_key(GroupKind::Others, "", "");
        for row in &gone {
            let row = GroupRow::read(row)?;
            for sql in ["DELETE FROM met WHERE refused = $1", "DELETE FROM refused WHERE id = $1"] {
                sqlx::query(sql).bind(row.id).execute(&mut *work).await?;
            }
            self.groups.remove(&row.key);
            self.met.retain(|(group, _), _| *group != row.id);
            self.groups_held -= 1;
            match &mut others {
                Some(others) => {
                    others.count = others.count.saturating_add(row.count);
                    others.first = others.first.min(row.first);
                    others.last = others.last.max(row.last);
                    others.latest = row.latest;
                }
                None => others = Some(row),
            }
        }
        if let Some(gone) = others {
            let row = match GroupRow::load(work, &key).await? {
                Some(row) => row,
                None => {
                    self.groups_held += 1;
                    let id = self.next_group;
                    self.next_group += 1;
                    let reference = "references met long ago, counted together";
                    GroupRow { id, ..group(&key, GroupKind::Others, reference, "", gone.first) }
                }
            };
            let mut row = row;
            row.count = row.count.saturating_add(gone.count);
            row.first = row.first.min(gone.first);
            row.last = row.last.max(gone.last);
            row.verdict = gone.verdict;
            row.latest = gone.latest;
            row.state = State::Acknowledged;
            row.save(work).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_clients(&mut self, work: &mut SqliteConnection) -> Result<()> {
        self.flush(work).await?;
        let many = (self.bounds.clients / 64).max(1);
        let gone = sqlx::query("SELECT * FROM client WHERE who <> $1 ORDER BY last, id LIMIT $2")
            .bind(OTHERS)
            .bind(many)
            .fetch_all(&mut *work)
            .await?;
        let mut others = match ClientRow::load(work, OTHERS).await? {
            Some(row) => row,
            None => {
                self.clients_held += 1;
                let id = self.next_client;
                self.next_client += 1;
                ClientRow { first: i64::MAX, last: 0, ..client(id, OTHERS) }
            }
        };
        for row in &gone {
            let row = ClientRow::read(row)?;
            for sql in ["DELETE FROM met WHERE client = $1", "DELETE FROM client WHERE id = $1"] {
                sqlx::query(sql).bind(row.id).execute(&mut *work).await?;
            }
            self.clients.remove(&row.who);
            self.met.retain(|(_, client), _| *client != row.id);
            self.clients_held -= 1;
            others.pulls = others.pulls.saturating_add(row.pulls);
            others.refusals = others.refusals.saturating_add(row.refusals);
            others.bytes = others.bytes.saturating_add(row.bytes);
            others.first = others.first.min(row.first);
            others.last = others.last.max(row.last);
            others.last_refused = others.last_refused.max(row.last_refused);
        }
        others.save(work).await?;
        self.clients.remove(OTHERS);
        Ok(())
    }
}
