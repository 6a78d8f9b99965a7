//! What the gateway tells about itself: log lines and metrics. It stands alone; any room may use it.

use std::fmt;
use std::io::{IsTerminal, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged unless `PULLGATE_LOG`, or else `RUST_LOG`, says otherwise.
///
/// Clients that dial an address cause rustls a warning each; sqlx tells every statement.
pub const DEFAULT_FILTER: &str = "info,rustls=error,hyper=warn,sqlx=warn";

/// The content type of [`Metrics::encode`].
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error(
        "{variable} is no log filter: {reason}; expected a level or module=level, such as info,pullgate::upstream=debug"
    )]
    Filter {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Something in this process logs already.
    #[error("logging is set up already: {0}")]
    Taken(String),
}

/// Sends log lines to standard error from now on: for people on a terminal, else one JSON object a line.
///
/// # Errors
/// The environment's filter is malformed, or logging was set up before.
pub fn init_log() -> Result<(), TelemetryError> {
    let filter = filter(|name| std::env::var(name).ok())?;
    let registry = tracing_subscriber::registry().with(filter);
    // A terminal that went away must not stop the gateway: failed writes are dropped.
    let writer = || Lossy(std::io::stderr());
    if std::io::stderr().is_terminal() {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let layer = tracing_subscriber::fmt::layer().with_ansi(colour).with_target(false).with_writer(writer);
        registry.with(layer).try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(writer);
        registry.with(layer).try_init()
    }
    .map_err(|error| TelemetryError::Taken(error.to_string()))
}

fn filter(variable: impl Fn(&str) -> Option<String>) -> Result<EnvFilter, TelemetryError> {
    let set = ["PULLGATE_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| variable(name).filter(|text| !text.trim().is_empty()).map(|text| (name, text)));
    let (variable, text) = set.unwrap_or(("PULLGATE_LOG", DEFAULT_FILTER.to_owned()));
    EnvFilter::builder()
        .parse(text.trim())
        .map_err(|error| TelemetryError::Filter { variable, reason: error.to_string() })
}

struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// The metrics of this process. Each room registers its own families at the start, with labels from
/// closed enums only: nothing that a client sends may become a label.
#[derive(Debug)]
pub struct Metrics(Registry);

/// One number without labels, as it stands now.
#[derive(Clone, Copy, Debug)]
pub enum Figure {
    /// It only grows. Name (without `_total`), help, value.
    Counter(&'static str, &'static str, u64),
    /// It goes up and down. Name, help, value.
    Gauge(&'static str, &'static str, u64),
}

struct Figures<F>(F);

impl<F> fmt::Debug for Figures<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl<const N: usize, F: Fn() -> [Figure; N] + Send + Sync + 'static> Collector for Figures<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for figure in (self.0)() {
            match figure {
                Figure::Counter(name, help, value) => {
                    let metric = ConstCounter::new(value);
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
                }
                Figure::Gauge(name, help, value) => {
                    let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

impl Metrics {
    /// Every name begins with `pullgate_`; `pullgate_build_info` is there already.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("pullgate");
        let build = Info::new(Build { version: env!("CARGO_PKG_VERSION") });
        registry.register("build", "What is running", build);
        Self(registry)
    }

    /// For a room to register its families in. A counter's name gets `_total` by itself.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.0
    }

    /// Adds numbers that a room keeps by itself: read whenever metrics are, so it must not wait.
    pub fn read<const N: usize>(&mut self, figures: impl Fn() -> [Figure; N] + Send + Sync + 'static) {
        self.0.register_collector(Box::new(Figures(figures)));
    }

    /// All metrics as [`METRICS_TYPE`], as of now.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // The only error is the string's, and a string has none.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.0);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;

    use super::*;

    #[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
    struct Labels {
        verdict: &'static str,
    }

    #[test]
    fn metrics_carry_the_prefix_and_every_rooms_families() {
        let mut metrics = Metrics::new();
        let decisions = Family::<Labels, Counter>::default();
        metrics.registry().register("decisions", "Decisions by verdict", decisions.clone());
        decisions.get_or_create(&Labels { verdict: "deny" }).inc();
        let text = metrics.encode();
        assert!(text.contains("pullgate_decisions_total{verdict=\"deny\"} 1\n"), "{text}");
        assert!(text.contains("pullgate_build_info{version="), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn our_own_variable_goes_before_the_common_one_and_an_empty_one_counts_as_unset() {
        let with = |ours: &str, common: &str| {
            let (ours, common) = (ours.to_owned(), common.to_owned());
            filter(move |name| Some(if name == "PULLGATE_LOG" { ours.clone() } else { common.clone() }))
        };
        assert_eq!(with("debug", "trace").unwrap().to_string(), "debug");
        assert_eq!(with(" ", "trace").unwrap().to_string(), "trace");
        assert!(with("", "").unwrap().to_string().contains("rustls=error"));
        let error = with("", "pullgate=loudly").expect_err("no level").to_string();
        assert!(error.starts_with("RUST_LOG is no log filter"), "{error}");
    }

    #[test]
    fn a_log_that_nobody_takes_is_dropped() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        Lossy(Gone).write_all(b"line").unwrap();
        Lossy(Gone).flush().unwrap();
    }
}
