//! Owns: the longest turn of each second, by the CPU time of the loop's thread, for who asks the log for it:
//! `RUST_LOG=info,dkv::turns=debug`. Reading that clock is a system call, half a microsecond a turn, so nobody else
//! pays for it.
//! Never: what a turn does, the clocks.

use super::metrics::TurnPhase;

const TARGET: &str = "dkv::turns";
/// How often the longest turn is told, in nanoseconds.
const EVERY_NS: u64 = 1_000_000_000;

/// What the phases of turns took, in nanoseconds of the clock on the wall.
type Phases = [u64; TurnPhase::NAMES.len()];

/// See the module.
pub(super) struct LongestTurn {
    /// When the last turn ended, by the thread's clock.
    ended_cpu_ns: u64,
    /// The sums of the phases then.
    ended: Phases,
    turns: u64,
    longest_cpu_ns: u64,
    longest: Phases,
    told_ns: u64,
}

impl LongestTurn {
    /// `None`: nobody asks. `cpu_ns`: what the thread has used so far.
    pub(super) fn if_asked(now_ns: u64, cpu_ns: u64) -> Option<Self> {
        let is_asked = log::log_enabled!(target: TARGET, log::Level::Debug);
        let zero = Phases::default();
        let fresh =
            Self { ended_cpu_ns: cpu_ns, ended: zero, turns: 0, longest_cpu_ns: 0, longest: zero, told_ns: now_ns };
        is_asked.then_some(fresh)
    }

    /// A turn ended at this moment; so much the thread has used since its start, and so much the phases have taken.
    pub(super) fn turn_ended(&mut self, now_ns: u64, cpu_ns: u64, phases: Phases) {
        let took_ns = cpu_ns - self.ended_cpu_ns;
        if took_ns > self.longest_cpu_ns {
            self.longest_cpu_ns = took_ns;
            self.longest = std::array::from_fn(|phase| phases[phase] - self.ended[phase]);
        }
        self.turns += 1;
        self.ended = phases;
        self.ended_cpu_ns = cpu_ns;
        if now_ns >= self.told_ns + EVERY_NS {
            self.tell();
            (self.turns, self.longest_cpu_ns, self.told_ns) = (0, 0, now_ns);
        }
    }

    fn tell(&self) {
        let phases = TurnPhase::NAMES.iter().zip(self.longest).skip(1);
        let phases: Vec<String> = phases.map(|(name, ns)| format!("{name} {}", ns / 1_000)).collect();
        log::debug!(
            target: TARGET,
            "{} turns; the longest took {} us of CPU; on the wall, in us: {}",
            self.turns,
            self.longest_cpu_ns / 1_000,
            phases.join(", ")
        );
    }
}
