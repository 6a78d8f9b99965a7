//! Image references in the files people write, and where exactly they stand.
//!
//! Text in, references with places out: Dockerfiles, compose files, Kubernetes manifests,
//! kustomizations, Helm values and workflow files. Nothing is judged, read or written here, and nothing
//! is guessed: a reference that the text alone does not give (a template, a variable without a default)
//! is reported as such. Work and memory are bounded by the text's length, whatever it says.

mod action;
mod compose;
mod dockerfile;
mod finding;
mod format;
mod helm;
mod kubernetes;
mod kustomize;
mod place;
mod template;
mod variables;
mod yaml;

use std::ops::Range;

pub use format::Format;
pub use place::Place;

use finding::Findings;

/// No file longer than this many bytes is read: rendered charts of whole clusters stay below it.
pub const LENGTH_MAX: usize = 8 << 20;

/// What kind of text names the image; the word is printed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// A compose file (compose-spec).
    Compose,
    /// A Dockerfile or Containerfile.
    Dockerfile,
    /// Values of a Helm chart.
    Helm,
    /// A Kubernetes manifest, also one of a custom resource.
    Kubernetes,
    /// A kustomization's `images`.
    Kustomize,
    /// A workflow or an action of GitHub and its relatives.
    Workflow,
}

impl Kind {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compose => "compose",
            Self::Dockerfile => "dockerfile",
            Self::Helm => "helm",
            Self::Kubernetes => "kubernetes",
            Self::Kustomize => "kustomize",
            Self::Workflow => "workflow",
        }
    }
}

/// What one file says of images.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// The references, in the order they stand in, each place once.
    pub images: Vec<Image>,
    /// What names an image, but does not say which.
    pub unjudged: Vec<Unjudged>,
    /// Where the file stopped being readable; what stands before is in the other fields.
    pub fault: Option<Fault>,
}

/// One image reference.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// In what.
    pub kind: Kind,
    /// Where it stands; of one that is assembled from several keys, where the repository stands.
    pub place: Place,
    /// What would be pulled, with variables filled in; not yet known to be a well-formed name.
    pub text: String,
    /// The byte offset in the file before which `@digest` pins it, where it stands there literally.
    pub pin: Result<usize, Obstacle>,
}

/// A place that names an image which the text alone does not give.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unjudged {
    /// In what.
    pub kind: Kind,
    /// Where.
    pub place: Place,
    /// What stands there.
    pub text: String,
    /// Why that is not enough.
    pub why: Why,
}

/// Why a reference cannot be judged. Shown to people; [`Why::word`] is for programs.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Why {
    /// `${{ … }}` of a workflow.
    #[error("only the run knows it; check the images that it can become")]
    Expression,
    /// The tag is written elsewhere: in the chart, in the manifest that a kustomization changes.
    #[error("it stands elsewhere; check what is rendered: helm template, kustomize build")]
    Tag,
    /// `{{ … }}` of a template.
    #[error("it is not rendered yet; check what is: helm template … | pullgate check --files -")]
    Template,
    /// A variable that has no default here, or a form of substitution that is not known.
    #[error("{0} has no value here; check the file with it filled in")]
    Variable(String),
}

impl Why {
    /// The closed word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Expression => "expression",
            Self::Tag => "tag",
            Self::Template => "template",
            Self::Variable(_) => "variable",
        }
    }
}

/// Why a reference cannot be rewritten where it stands. Shown to people.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Obstacle {
    /// An alias leads to the text, which may mean something else in another place.
    #[error("an alias leads to it")]
    Alias,
    /// Registry, repository, tag or digest stand under keys of their own.
    #[error("it is assembled from several keys")]
    Assembled,
    /// Escapes, or several lines.
    #[error("it is not written in one piece")]
    Pieces,
    /// The file is a template.
    #[error("the file is a template")]
    Template,
    /// Variables are part of it.
    #[error("variables are part of it")]
    Variables,
}

/// Why a file cannot be read to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong, in words.
    pub text: String,
}

/// Finds the images of one file.
///
/// `path` is only looked at as a name, with `/` between its parts: some files are known by it. YAML that
/// cannot be parsed is a fault only where it speaks of images at all.
pub fn read(format: Format, path: &str, text: &str) -> Reading {
    let lines = place::Lines::new(text);
    if text.len() > LENGTH_MAX {
        let fault = Fault { place: lines.place(0..0), text: format!("longer than {} MiB", LENGTH_MAX >> 20) };
        return Reading { fault: Some(fault), ..Reading::default() };
    }
    let bom = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let body = text.get(bom..).unwrap_or_default();
    let mut findings = Findings::default();
    let fault = match format {
        Format::Dockerfile => {
            dockerfile::read(body, &mut findings);
            None
        }
        Format::Json | Format::Yaml => documents(format, path, body, &mut findings),
    };
    let shift = |range: Range<usize>| lines.place(range.start + bom..range.end + bom);
    let fault =
        fault.or_else(|| findings.is_full().then(|| (0, "more images than anybody names".to_owned())));
    let mut reading = findings.sorted(&shift, bom);
    reading.fault = fault.map(|(at, text)| Fault { place: shift(at..at), text });
    reading
}

/// Reads each document by what it is, and says where and why it had to stop.
fn documents(format: Format, path: &str, text: &str, findings: &mut Findings) -> Option<(usize, String)> {
    if !["container", "docker", "image", "repository"].iter().any(|word| text.contains(word)) {
        return None;
    }
    let mask = template::Mask::new(text);
    let masked = mask.as_ref().map_or(text, template::Mask::text);
    let yaml = yaml::Yaml::parse(text, masked, mask.as_ref());
    for root in yaml.documents() {
        match format::Document::of(format, path, root) {
            Some(format::Document::Action) => action::action(root, findings),
            Some(format::Document::Compose) => compose::read(root, findings),
            Some(format::Document::Kubernetes) => kubernetes::read(root, findings),
            Some(format::Document::Kustomization) => kustomize::read(root, findings),
            Some(format::Document::Values) => helm::values(root, findings),
            Some(format::Document::Workflow) => action::workflow(root, findings),
            None => {}
        }
    }
    // JSON of another kind is nobody's manifest, and comments make it no JSON.
    let (at, what) = yaml.fault()?;
    if matches!(format, Format::Json) && !text.contains("\"apiVersion\"") {
        return None;
    }
    match &mask {
        Some(mask) => {
            Some((mask.first(), format!("a template that is no YAML yet ({what}); render it first")))
        }
        None => Some((at, what.to_owned())),
    }
}

#[cfg(test)]
mod tests;
