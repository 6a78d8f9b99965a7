//! The policy file and the catalog as the review pages need them.

use std::path::PathBuf;

use crate::catalog::Catalog;
use crate::policy::{Facts, Need, Surroundings};
use crate::pull::CatalogFacts;
use crate::review::{Compiled, Gathered, Judge, PolicyFile};
use crate::settings::gateway::Gateway;
use crate::settings::policy;

/// Reads what the gateway reads, and asks nobody.
#[derive(Debug)]
pub(super) struct FileJudge {
    path: PathBuf,
    clients: Vec<String>,
    surroundings: Surroundings,
    held: CatalogFacts,
}

impl FileJudge {
    pub(super) fn new(settings: &Gateway, catalog: Catalog) -> Self {
        Self {
            path: settings.policy.file.clone(),
            clients: settings.client_names(),
            surroundings: settings.surroundings(),
            held: CatalogFacts::new(catalog, settings.storage.path.join("content")),
        }
    }
}

impl Judge for FileJudge {
    fn read(&self) -> Result<PolicyFile, String> {
        let text = policy::text_of(&self.path).map_err(|error| error.to_string())?;
        Ok(PolicyFile { path: self.path.display().to_string(), text })
    }

    fn compile(&self, text: &str) -> Result<Compiled, String> {
        let work = policy::compile(&self.path, text, &self.clients).map_err(|error| error.to_string())?;
        Ok(Compiled { policy: work.policy, rules: work.rules })
    }

    fn surroundings(&self) -> Surroundings {
        self.surroundings.clone()
    }

    fn gather<'a>(&'a self, need: &'a Need, facts: &'a mut Facts) -> Gathered<'a> {
        Box::pin(async move { self.held.gather(need, facts).await.map_err(|error| error.to_string()) })
    }
}

#[cfg(test)]
mod tests;
