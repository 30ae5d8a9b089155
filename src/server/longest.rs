//! Owns: the longest turn of each second, by the CPU time of the loop's thread, for who asks the log for it:
//! `RUST_LOG=info,dkv::turns=debug`. Reading that clock is a system call, half a microsecond a phase, so nobody else
//! pays for it. The wait for events is told beside it and is no part of it: the loop does nothing there, and what its
//! thread is charged with is the system's (interrupts of the disk and of the network).
//! Never: what a turn does, the clocks.

use super::metrics::TurnPhase;

const TARGET: &str = "dkv::turns";
/// How often the longest turn is told, in nanoseconds.
const EVERY_NS: u64 = 1_000_000_000;

/// What the phases of a turn took, in nanoseconds of the thread's clock.
type Phases = [u64; TurnPhase::NAMES.len()];

/// See the module.
pub(super) struct LongestTurn {
    /// When the last phase ended, by the thread's clock.
    ended_cpu_ns: u64,
    this: Phases,
    longest: Phases,
    turns: u64,
    told_ns: u64,
}

impl LongestTurn {
    /// `None`: nobody asks. `cpu_ns`: what the thread has used so far.
    pub(super) fn if_asked(now_ns: u64, cpu_ns: u64) -> Option<Self> {
        let is_asked = log::log_enabled!(target: TARGET, log::Level::Debug);
        let zero = Phases::default();
        is_asked.then_some(Self { ended_cpu_ns: cpu_ns, this: zero, longest: zero, turns: 0, told_ns: now_ns })
    }

    /// A phase of this turn ended; so much the thread has used since its start.
    pub(super) fn phase_ended(&mut self, phase: TurnPhase, cpu_ns: u64) {
        self.this[phase as usize] = cpu_ns - self.ended_cpu_ns;
        self.ended_cpu_ns = cpu_ns;
    }

    /// A turn ended at this moment.
    pub(super) fn turn_ended(&mut self, now_ns: u64) {
        if took(&self.this) > took(&self.longest) {
            self.longest = self.this;
        }
        self.turns += 1;
        if now_ns >= self.told_ns + EVERY_NS {
            self.tell();
            (self.turns, self.longest, self.told_ns) = (0, Phases::default(), now_ns);
        }
    }

    fn tell(&self) {
        let phases = TurnPhase::NAMES.iter().zip(self.longest);
        let phases: Vec<String> = phases.map(|(name, ns)| format!("{name} {}", ns / 1_000)).collect();
        log::debug!(
            target: TARGET,
            "{} turns; the longest took {} us of CPU beside its wait: {}",
            self.turns,
            took(&self.longest) / 1_000,
            phases.join(", ")
        );
    }
}

/// All but the wait.
fn took(phases: &Phases) -> u64 {
    phases.iter().sum::<u64>() - phases[TurnPhase::Wait as usize]
}
