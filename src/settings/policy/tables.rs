//! `[[recall]]`, `[[exception]]` and what a `[[test]]` supposes.

use std::ops::Range;

use super::keys::FACTS;
use super::leaves::platform;
use super::reader::{Fields, Reader};
use super::{parsed, pinned, printable};
use crate::oci::{Digest, Reference};
use crate::policy::{Exception, Given, Recall, Softenable};
use crate::settings::diagnostic::nearest;
use crate::settings::value;

/// The most characters of a reason: it stands in refusals.
const REASON_MAX: usize = 160;

impl Reader<'_> {
    pub(super) fn recall(&mut self, fields: &Fields<'_>, span: &Range<usize>) -> Option<Recall> {
        let id = self.required(fields, "id", super::word);
        let reason = self.required(fields, "reason", |text| printable(text, REASON_MAX));
        let mut digests = |key| self.list(fields, key, parsed::<Digest>).unwrap_or_default();
        let (digests, layers, diff_ids) = (digests("digests"), digests("layers"), digests("diff_ids"));
        let images = self.list(fields, "images", pinned).unwrap_or_default();
        let replace = self.text(fields, "replace", parsed::<Reference>);
        Some(Recall {
            id: id?,
            reason: reason?.into(),
            digests,
            layers,
            diff_ids,
            images,
            replace,
            at: self.at(span),
        })
    }

    pub(super) fn exception(&mut self, fields: &Fields<'_>, span: &Range<usize>) -> Option<Exception> {
        let id = self.required(fields, "id", super::word);
        let image = self.required(fields, "image", exact);
        if fields.value("waive").is_none() {
            self.missing(fields, "waive");
        }
        let waive = self.list(fields, "waive", waivable);
        let mut words = |key| self.required(fields, key, |text| printable(text, REASON_MAX));
        let (reason, ticket) = (words("reason"), words("ticket"));
        let (requested_by, approved_by) = (words("requested_by"), words("approved_by"));
        let mut day = |key| {
            if fields.value(key).is_none() {
                self.missing(fields, key);
            }
            self.date(fields, key)
        };
        let (approved, expires) = (day("approved"), day("expires"));
        Some(Exception {
            id: id?,
            image: image?,
            waive: waive?,
            reason: reason?.into(),
            ticket: ticket?.into(),
            requested_by: requested_by?.into(),
            approved_by: approved_by?.into(),
            approved: approved?,
            expires: expires?,
            at: self.at(span),
        })
    }

    pub(super) fn given(&mut self, fields: &Fields<'_>) -> Given {
        let Some(facts) = self.table(fields, "facts", &FACTS) else { return Given::default() };
        Given {
            annotations: self.texts(&facts, "annotations").unwrap_or_default().into_iter().collect(),
            artifact_type: self.text(&facts, "artifact", |text| Ok(text.to_owned())),
            created: self.time(&facts, "created"),
            diff_ids: self.list(&facts, "diff_ids", parsed).unwrap_or_default(),
            digest: self.text(&facts, "digest", parsed),
            first_seen: self.time(&facts, "first_seen"),
            labels: self.texts(&facts, "labels").map(|labels| labels.into_iter().collect()),
            layers: self.list(&facts, "layers", parsed).unwrap_or_default(),
            locked: self.text(&facts, "locked", parsed),
            platform: self.text(&facts, "platform", platform),
            size: self.text(&facts, "size", value::bytes),
            tags: self.list(&facts, "tags", parsed).unwrap_or_default(),
            user: self.text(&facts, "user", |text| Ok(text.to_owned())),
        }
    }
}

/// An image named exactly: with its tag or its digest written out.
fn exact(text: &str) -> Result<Reference, String> {
    if text.contains(['*', '#']) {
        return Err(format!("{text:?} holds a wildcard; an exception is for exactly one image"));
    }
    let reference: Reference = parsed(text)?;
    let written = text.rsplit('/').next().unwrap_or(text).contains([':', '@']);
    if written {
        Ok(reference)
    } else {
        Err(format!("{text:?} names a repository; an exception is for one tag or one digest"))
    }
}

/// A check that can be waived.
fn waivable(text: &str) -> Result<Softenable, String> {
    if let Some(check) = Softenable::parse(text) {
        return Ok(check);
    }
    // The codes of one check are waived together.
    let codes =
        Softenable::ALL.into_iter().find(|check| check.codes().iter().any(|code| code.as_str() == text));
    if let Some(check) = codes {
        return Err(format!("{text:?} is waived as {:?}", check.as_str()));
    }
    if crate::policy::Code::parse(text).is_some() {
        return Err(format!("{text:?} cannot be waived by anybody"));
    }
    let known = Softenable::ALL.map(Softenable::as_str);
    let near = nearest(text, known).map(|near| format!("did you mean {near:?}?"));
    Err(format!(
        "{text:?} is no check; {}",
        near.unwrap_or_else(|| format!("known are {}", known.join(", ")))
    ))
}
