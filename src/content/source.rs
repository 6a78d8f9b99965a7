//! Where a fill takes its bytes from.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::oci::Fault;

/// Something that can stream one blob, again if need be: an upstream registry, a folder, a test.
///
/// It owns its time-outs: the store waits for as long as the source does.
pub trait Source: Send + 'static {
    /// Asks for the blob from this offset on. Offset 0 is a plain request, anything else a range
    /// request after a stream broke. The answer may start elsewhere (a server that ignores ranges):
    /// it must say so in [`SourceBody::start`]; the store then refuses to glue it.
    fn open(&mut self, offset: u64) -> impl Future<Output = Result<SourceBody, Fault>> + Send;
}

/// A source's answer, its bytes still to come.
pub struct SourceBody {
    /// The offset of the first byte that will really come.
    pub start: u64,
    /// The length of the whole blob as the source states it (`Content-Length` of a 200, the figure
    /// after the slash of a `Content-Range`), when it does.
    pub total: Option<u64>,
    /// The bytes. An error that is transient ([`Fault::Unreachable`]) or an early end makes the store ask for the rest.
    pub bytes: BoxStream<'static, Result<Bytes, Fault>>,
}

impl fmt::Debug for SourceBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceBody")
            .field("start", &self.start)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl SourceBody {
    /// Refuses an answer to `open(0)` that is not the whole blob of this size.
    pub(super) fn check_whole(&self, size: u64) -> Result<(), Fault> {
        if self.start != 0 {
            return Err(Fault::Invalid(
                format!("asked for the whole blob, it answered from byte {} on", self.start).into(),
            ));
        }
        match self.total {
            Some(total) if total != size => Err(Fault::Invalid(
                format!("the descriptor says {size} bytes, the upstream offers {total}").into(),
            )),
            _ => Ok(()),
        }
    }
}

/// [`Source`] behind a pointer.
pub(super) trait AnySource: Send {
    fn reopen(&mut self, offset: u64) -> BoxFuture<'_, Result<SourceBody, Fault>>;
}

impl<S: Source> AnySource for S {
    fn reopen(&mut self, offset: u64) -> BoxFuture<'_, Result<SourceBody, Fault>> {
        Box::pin(self.open(offset))
    }
}
