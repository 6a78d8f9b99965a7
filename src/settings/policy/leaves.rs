//! The keys that sources share with `[require]`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use toml::de::DeValue;

use super::keys::{AGE, BASE, SIZE, TAGS, USER};
use super::reader::{Fields, Reader};
use super::{known, label, parsed};
use crate::policy::{
    AgeClock, AgeRule, Artifacts, BaseRule, Digests, HoldFirst, IndexRule, LabelRule, Leaves, Match, Mode,
    Modes, Moved, Pattern, PlatformRule, SizeRule, Softenable, UserRule, Written,
};
use crate::settings::diagnostic::{Problem, nearest};
use crate::settings::value;

/// Dates before this one are a builder's zero unless `age.ignore_before` says otherwise.
const IGNORE_BEFORE: &str = "2000-01-01T00:00:00Z";

impl Reader<'_> {
    pub(super) fn leaves(&mut self, fields: &Fields<'_>) -> Leaves {
        let clients = self.clients;
        let mut leaves = Leaves {
            age: self.age(fields),
            artifacts: self.artifacts(fields),
            base: self.base(fields),
            clients: self.written_list(fields, "clients", |text| known(label(text)?, clients)),
            digests: self.written_choice(fields, "digests", &Digests::ALL, Digests::as_str),
            index: self.written_choice(fields, "index", &IndexRule::ALL, IndexRule::as_str),
            labels: self.labels(fields),
            mode: self.choice(fields, "mode", &Mode::ALL, Mode::as_str),
            modes: self.modes(fields),
            platforms: self.written_list(fields, "platforms", platform),
            size: self.size(fields),
            user: self.user(fields),
            ..Leaves::default()
        };
        if let Some(tags) = self.table(fields, "tags", &TAGS) {
            leaves.allow = self.written_list(&tags, "allow", Pattern::parse);
            leaves.deny = self.written_list(&tags, "deny", Pattern::parse);
            leaves.hold = self.written_text(&tags, "hold", value::duration);
            leaves.hold_first = self.written_choice(&tags, "hold_first", &HoldFirst::ALL, HoldFirst::as_str);
            leaves.moved = self.written_choice(&tags, "moved", &Moved::ALL, Moved::as_str);
        }
        leaves
    }

    fn written_text<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Written<T>> {
        let value = self.text(fields, key, read)?;
        Some(Written { value, at: self.at_of(fields, key) })
    }

    fn age(&mut self, fields: &Fields<'_>) -> Option<Written<AgeRule>> {
        let age = self.table(fields, "age", &AGE)?;
        let max = self.required(&age, "max", positive);
        let clocks = self.list(&age, "clock", |text| {
            let clock = AgeClock::ALL.into_iter().find(|clock| clock.as_str() == text);
            clock.ok_or_else(|| one_of(text, "clock", AgeClock::ALL.map(AgeClock::as_str)))
        });
        if let Some(value) = age.value("clock")
            && matches!(value.get_ref(), DeValue::Array(items) if items.is_empty())
        {
            self.problem(value.span(), "without a clock no age can be told; name at least one");
        }
        let ignore_before =
            self.time(&age, "ignore_before").or_else(|| IGNORE_BEFORE.parse::<Timestamp>().ok());
        let value = AgeRule {
            max: max?,
            clocks: clocks.unwrap_or_else(|| AgeClock::ALL.to_vec()),
            ignore_before: ignore_before?,
        };
        Some(Written { value, at: self.at_of(fields, "age") })
    }

    fn artifacts(&mut self, fields: &Fields<'_>) -> Option<Written<Artifacts>> {
        let value = fields.value("artifacts")?;
        let value = match value.get_ref() {
            DeValue::Array(_) => {
                let types = self.list(fields, "artifacts", |text| match text.contains('/') {
                    true => label(text),
                    false => Err(format!("{text:?} is no media type; expected \"application/…\"")),
                })?;
                Artifacts::Types(types)
            }
            _ => self.text(fields, "artifacts", |text| match text {
                "allow" => Ok(Artifacts::Allow),
                "deny" => Ok(Artifacts::Deny),
                _ => Err(format!("`artifacts` is \"allow\", \"deny\" or a list of types, not {text:?}")),
            })?,
        };
        Some(Written { value, at: self.at_of(fields, "artifacts") })
    }

    fn base(&mut self, fields: &Fields<'_>) -> Option<Written<BaseRule>> {
        let base = self.table(fields, "base", &BASE)?;
        let value = BaseRule {
            digests: self.list(&base, "digests", parsed).unwrap_or_default(),
            names: self.list(&base, "names", Match::parse).unwrap_or_default(),
        };
        Some(Written { value, at: self.at_of(fields, "base") })
    }

    fn labels(&mut self, fields: &Fields<'_>) -> Option<Written<Vec<LabelRule>>> {
        let rule = |key: &str, value: &str| LabelRule { key: key.into(), value: value.into() };
        let value = match fields.value("labels")?.get_ref() {
            DeValue::Table(_) => {
                let texts = self.texts(fields, "labels")?;
                texts.iter().map(|(key, value)| rule(key, value)).collect()
            }
            _ => self.list(fields, "labels", |key| match key {
                "" => Err("a label has a name".to_owned()),
                key => Ok(rule(key, "*")),
            })?,
        };
        Some(Written { value, at: self.at_of(fields, "labels") })
    }

    fn modes(&mut self, fields: &Fields<'_>) -> Modes {
        let mut modes = Modes::default();
        let Some(value) = fields.value("modes") else { return modes };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value, "modes", "a table");
            return modes;
        };
        let words = Mode::ALL.map(Mode::as_str);
        for (key, value) in table {
            let name: &str = key.get_ref();
            let Some(check) = Softenable::parse(name) else {
                let problem = Problem::new(key.span(), format!("unknown key `{name}` in modes"));
                let known = Softenable::ALL.map(Softenable::as_str);
                self.problems.push(match nearest(name, known) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help(format!("modes takes {}", known.join(", "))),
                });
                continue;
            };
            let DeValue::String(text) = value.get_ref() else {
                let hint = match name {
                    "tag" | "user" if value.get_ref().is_table() => {
                        "one word; write a name with a dot in quotes, as \"tag.moved\"".to_owned()
                    }
                    _ => format!("one of {}", words.join(", ")),
                };
                self.wrong_type(value, name, &hint);
                continue;
            };
            match Mode::ALL.into_iter().find(|mode| mode.as_str() == text.as_ref()) {
                Some(mode) => modes = modes.with(check, mode),
                None => self.problem(value.span(), one_of(text, name, words)),
            }
        }
        modes
    }

    fn size(&mut self, fields: &Fields<'_>) -> Option<Written<SizeRule>> {
        let value = match fields.value("size")?.get_ref() {
            DeValue::Table(_) => {
                let size = self.table(fields, "size", &SIZE)?;
                let layers = self.number(&size, "layers");
                SizeRule {
                    max: self.text(&size, "max", value::bytes),
                    layer: self.text(&size, "layer", value::bytes),
                    layers: layers.map(|layers| usize::try_from(layers).unwrap_or(usize::MAX)),
                }
            }
            _ => SizeRule { max: Some(self.text(fields, "size", value::bytes)?), ..SizeRule::default() },
        };
        Some(Written { value, at: self.at_of(fields, "size") })
    }

    fn user(&mut self, fields: &Fields<'_>) -> Option<Written<UserRule>> {
        let user = self.table(fields, "user", &USER)?;
        let min_uid = match self.number(&user, "min_uid") {
            // Without a number: anybody but root.
            None => 1,
            Some(number) => match u32::try_from(number).ok().filter(|uid| *uid <= 2_147_483_647) {
                Some(uid) => uid,
                None => {
                    let span = user.value("min_uid").map(super::Value::span).unwrap_or_default();
                    self.problem(span, "`min_uid` is a uid: 0 to 2147483647");
                    return None;
                }
            },
        };
        let names = self.list(&user, "names", label).unwrap_or_default();
        Some(Written { value: UserRule { min_uid, names }, at: self.at_of(fields, "user") })
    }
}

fn one_of(text: &str, key: &str, words: impl IntoIterator<Item = &'static str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    format!("`{key}` is one of {}, not {text:?}", words.join(", "))
}

fn positive(text: &str) -> Result<Duration, String> {
    match value::duration(text)? {
        Duration::ZERO => Err("no image is younger than that; give a longer time".to_owned()),
        duration => Ok(duration),
    }
}

/// `os/architecture[/variant]`.
pub(super) fn platform(text: &str) -> Result<PlatformRule, String> {
    let mut parts = text.split('/');
    let sound = |part: &&str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    let (os, architecture) = (parts.next().filter(sound), parts.next().filter(sound));
    let variant = parts.next();
    match (os, architecture, parts.next()) {
        (Some(os), Some(architecture), None) if variant.as_ref().is_none_or(sound) => Ok(PlatformRule {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(Arc::from),
        }),
        _ => Err(format!("{text:?} is no platform; expected \"linux/amd64\" or \"linux/arm/v7\"")),
    }
}
