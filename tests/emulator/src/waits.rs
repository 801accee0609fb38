//! Waits: a queue's head that is not done, and whether it can go on. Host interface 6.6.

use jalapeno_hw::faults::FaultCode;

use crate::engine::Engine;
use crate::execute::Outcome;
use crate::queue::Block;
use crate::trouble::Trouble;

impl Engine {
    /// A queue's head waits: whether it can go on.
    pub(crate) fn unblock(&mut self, index: usize) -> u32 {
        let Some((block, number)) = self
            .queues
            .get(index)
            .and_then(|queue| Some((queue.block?, queue.number)))
        else {
            return 0;
        };
        match block {
            Block::Forever => 0,
            Block::Until(time, words) => {
                if self.card.now() < time {
                    return 0;
                }
                let mut words = words;
                words[2] = 0;
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.block = None;
                }
                let outcome = self.execute(index, &words);
                if let Ok(Outcome::Done) = outcome {
                    self.advance(number);
                    return 1;
                }
                self.conclude(index, outcome, words, 0)
            }
            Block::Fence(wait, words) => match self.runner.is_met(&wait) {
                Ok(true) if self.queues.get(index).is_some_and(|it| it.graph.is_some()) => {
                    self.pass(index);
                    1
                }
                Ok(true) => {
                    self.advance(number);
                    1
                }
                Ok(false) if wait.deadline == 0 || self.card.now() < wait.deadline => 0,
                Ok(false) => {
                    self.fail(index, Trouble::new(FaultCode::Deadline), &words);
                    1
                }
                Err(trouble) => {
                    self.fail(index, trouble, &words);
                    1
                }
            },
        }
    }
}
