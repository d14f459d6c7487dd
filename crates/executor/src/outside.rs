//! Calls that hosts have not answered yet, and the answers that nobody has taken yet.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use comfyd_graph::NodeIndex;
use comfyd_node::{Error, HostedCall, HostedNode, HostedOutput, Result};

use crate::hosts::Hosts;

/// How long a wait may overlook that the prompt was interrupted.
const CANCEL_POLL: Duration = Duration::from_millis(20);

struct Answer {
    node: NodeIndex,
    result: Result<HostedOutput>,
}

pub(crate) struct Outside {
    sender: Sender<Answer>,
    /// Holds one answer a call at most.
    receiver: Receiver<Answer>,
    answers: HashMap<NodeIndex, Result<HostedOutput>>,
}

/// Answers for a host that dropped a call without an answer: nobody must wait for ever.
struct Unanswered {
    node: NodeIndex,
    sender: Option<Sender<Answer>>,
}

impl Unanswered {
    fn answer(&mut self, result: Result<HostedOutput>) {
        if let Some(sender) = self.sender.take() {
            // Nobody listens once the prompt is over.
            let _ = sender.send(Answer { node: self.node, result });
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.answer(Err(Error::msg("the node's host gave no answer: run the prompt again")));
    }
}

impl Outside {
    pub fn new() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver, answers: HashMap::new() }
    }

    /// Begins a call; its answer will be under the node's place.
    pub fn start(&self, node: NodeIndex, class: &dyn HostedNode, call: HostedCall) {
        let mut unanswered = Unanswered { node, sender: Some(self.sender.clone()) };
        class.run(call, Box::new(move |result| unanswered.answer(result)));
    }

    /// The answer for a node, if it came.
    pub fn take(&mut self, node: NodeIndex) -> Option<Result<HostedOutput>> {
        self.answers.remove(&node)
    }

    /// A node whose answer came since; its answer can be taken.
    pub fn arrived(&mut self) -> Option<NodeIndex> {
        let Answer { node, result } = self.receiver.try_recv().ok()?;
        self.answers.insert(node, result);
        Some(node)
    }

    /// Waits for the next answer, and gives its node. An interruption is passed on to the hosts, which then answer soon.
    pub fn wait(&mut self, hosts: &mut Hosts<'_>) -> Option<NodeIndex> {
        loop {
            if hosts.cancel.is_cancelled() {
                hosts.interrupt();
            }
            match self.receiver.recv_timeout(CANCEL_POLL) {
                Ok(Answer { node, result }) => {
                    self.answers.insert(node, result);
                    return Some(node);
                }
                Err(RecvTimeoutError::Timeout) => {}
                // This end has a sender itself.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}
