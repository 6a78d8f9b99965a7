//! Work that outlives whoever asked for it, and its end.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks of one puller. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    end: CancellationToken,
    running: TaskTracker,
}

impl Tasks {
    /// Runs the work on a task of its own until it is done, or dropped where it waits when the end
    /// comes; after the end it is dropped at once.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.running.spawn(async move {
            end.run_until_cancelled(work).await;
        });
    }

    /// Ends all of them; none runs any more on return.
    pub(super) async fn end(&self) {
        self.end.cancel();
        self.running.close();
        self.running.wait().await;
    }
}
