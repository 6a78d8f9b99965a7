//! Workflow files and action metadata of GitHub, Gitea and Forgejo.

use super::Kind;
use super::finding::Findings;
use super::yaml::View;

const DOCKER: &str = "docker://";

/// `jobs.*.container`, `jobs.*.services.*`, `jobs.*.steps[].uses`.
pub(super) fn workflow(root: View<'_>, findings: &mut Findings) {
    for (_, job) in root.all("jobs").into_iter().flat_map(View::merged) {
        for container in job.all("container") {
            image(container, findings);
        }
        for (_, service) in job.all("services").into_iter().flat_map(View::merged) {
            image(service, findings);
        }
        for list in job.all("steps") {
            steps(list, findings);
        }
    }
}

/// `runs.image` and the steps of a composite action.
pub(super) fn action(root: View<'_>, findings: &mut Findings) {
    for runs in root.all("runs") {
        for image in runs.all("image") {
            findings.scalar(Kind::Workflow, image, DOCKER);
        }
        for list in runs.all("steps") {
            steps(list, findings);
        }
    }
}

/// An image by itself, or under the key `image`.
fn image(view: View<'_>, findings: &mut Findings) {
    findings.scalar(Kind::Workflow, view, "");
    for image in view.all("image") {
        // A prefix is allowed in a job's container.
        let prefix = if image.text().is_some_and(|text| text.starts_with(DOCKER)) { DOCKER } else { "" };
        findings.scalar(Kind::Workflow, image, prefix);
    }
}

fn steps(list: View<'_>, findings: &mut Findings) {
    for step in list.items() {
        for uses in step.all("uses") {
            findings.scalar(Kind::Workflow, uses, DOCKER);
        }
    }
}
