//! Compose files (compose-spec).

use super::finding::Findings;
use super::yaml::View;
use super::{Kind, dockerfile};

/// What a build context has before an image.
const DOCKER_IMAGE: &str = "docker-image://";

/// The images that services pull, and those that their inline builds do.
pub(super) fn read(root: View<'_>, findings: &mut Findings) {
    for (_, service) in root.all("services").into_iter().flat_map(View::merged) {
        let builds = service.all("build");
        // Where there is a build, the image is the name of its result, unless a pull is asked for.
        let pulls = service.word("pull_policy").is_some_and(|policy| !matches!(policy, "build" | "never"));
        if builds.is_empty() || pulls {
            for image in service.all("image") {
                findings.scalar(Kind::Compose, image, "");
            }
        }
        for build in builds {
            for inline in build.all("dockerfile_inline") {
                dockerfile_inline(inline, findings);
            }
            for contexts in build.all("additional_contexts") {
                for (_, context) in contexts.merged() {
                    findings.scalar(Kind::Compose, context, DOCKER_IMAGE);
                }
            }
        }
    }
}

/// A Dockerfile inside, with the places it has outside.
fn dockerfile_inline(view: View<'_>, findings: &mut Findings) {
    let Some(text) = view.text() else { return };
    let mut inner = Findings::default();
    // In a compose file `$$` stands for one dollar sign; the builder sees what is left of it.
    let taken: Vec<usize> = text.match_indices("$$").enumerate().map(|(n, (at, _))| at - n).collect();
    dockerfile::read(&text.replace("$$", "$"), &mut inner);
    let lines = view.literal_lines().unwrap_or_default();
    let place = |at: usize| {
        let at = at + taken.partition_point(|taken| *taken < at);
        let before = text.get(..at)?;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count();
        lines.get(line).map(|line| line + (at - start))
    };
    findings.nest(inner, &place, view.content().0);
}
