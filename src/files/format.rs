//! What a file is: by its name, and YAML by what it says.

use super::yaml::View;

/// How a file is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// A Dockerfile or Containerfile.
    Dockerfile,
    /// JSON, which only Kubernetes manifests are read from.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// By a file's name, which may be a path.
    pub fn of_name(path: &str) -> Option<Self> {
        let name = file_name(path);
        let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, ""));
        match extension {
            "containerfile" | "dockerfile" => Some(Self::Dockerfile),
            "dockerignore" => None,
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ if matches!(stem.split('.').next(), Some("containerfile" | "dockerfile")) => {
                Some(Self::Dockerfile)
            }
            _ if name == "kustomization" => Some(Self::Yaml),
            _ => None,
        }
    }

    /// By the text of a file whose name says nothing.
    pub fn of_text(text: &str) -> Option<Self> {
        let text = text.trim_start_matches('\u{feff}');
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.find(|line| !line.starts_with('#') || directive(line))?;
        let word = first.split_whitespace().next().unwrap_or_default();
        if first.starts_with('#') || ["ARG", "FROM"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
            return Some(Self::Dockerfile);
        }
        match word.chars().next() {
            Some('{') => Some(Self::Json),
            _ if word == "---" || word.ends_with(':') => Some(Self::Yaml),
            _ => None,
        }
    }
}

fn directive(line: &str) -> bool {
    let line = line.trim_start_matches('#').trim_start();
    line.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("syntax")) && line.contains('=')
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase()
}

/// What one document of a YAML file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Document {
    /// Metadata of an action (`action.yml`).
    Action,
    /// A compose file.
    Compose,
    /// A Kubernetes object.
    Kubernetes,
    /// A kustomization.
    Kustomization,
    /// Values of a Helm chart.
    Values,
    /// A workflow.
    Workflow,
}

impl Document {
    /// By what it says first, then by the file's name.
    pub(super) fn of(format: Format, path: &str, root: View<'_>) -> Option<Self> {
        let has = |key| root.get(key).is_some();
        let kubernetes = has("apiVersion") && has("kind");
        if format == Format::Json {
            return kubernetes.then_some(Self::Kubernetes);
        }
        let name = file_name(path);
        let stem = name.split('.').next().unwrap_or_default();
        if stem == "kustomization" || root.word("kind") == Some("Kustomization") && kustomize(root) {
            return Some(Self::Kustomization);
        }
        if kubernetes {
            return Some(Self::Kubernetes);
        }
        let mapping = |key| root.get(key).is_some_and(View::is_mapping);
        let workflows = [".github/workflows/", ".gitea/workflows/", ".forgejo/workflows/"];
        if mapping("jobs") && (has("on") || workflows.iter().any(|folder| path.contains(folder))) {
            return Some(Self::Workflow);
        }
        if root.get("runs").is_some_and(|runs| runs.get("using").is_some()) {
            return Some(Self::Action);
        }
        if is_values(&name) {
            return Some(Self::Values);
        }
        let named = ["compose", "docker-compose"]
            .iter()
            .any(|known| name.strip_prefix(known).is_some_and(|rest| rest.starts_with(['.', '-', '_'])));
        let serves = |services: View<'_>| {
            services.merged().iter().any(|(_, service)| {
                service.is_mapping() && ["build", "image"].iter().any(|key| service.get(key).is_some())
            })
        };
        let compose = mapping("services") && (named || root.get("services").is_some_and(serves));
        // A file of fragments that others extend has no services of its own.
        (compose || (named && mapping("include"))).then_some(Self::Compose)
    }
}

fn kustomize(root: View<'_>) -> bool {
    root.word("apiVersion").is_some_and(|version| version.starts_with("kustomize.config.k8s.io/"))
}

/// `values.yaml`, `values-prod.yaml`, `prod-values.yaml`, `values.prod.yaml`, `prod.values.yaml`.
fn is_values(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    stem.split(['.', '-', '_']).any(|word| word == "values")
}
