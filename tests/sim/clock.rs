//! Owns: the clocks of the nodes: each has an offset and a rate of its own, and true time, which no node ever sees.
//! Never: what the time is used for.

use dkv::id::Now;

/// True time since the world began.
pub type Nanos = u64;
pub const MS: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000 * MS;

const MILLION: i128 = 1_000_000;

/// A machine's clocks.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Both clocks at one moment: true time, and what the machine's clock showed.
    since: Nanos,
    shown_ns: u64,
    /// Parts in a million by which it is fast.
    fast_ppm: i64,
    /// The wall clock has nothing to do with the other.
    wall_ms: u64,
    /// Since when it stands still, if it does.
    stands: Option<Nanos>,
}

impl Clock {
    /// `shown_ns`: what it shows at the beginning.
    pub fn new(shown_ns: u64, fast_ppm: i64, wall_ms: u64) -> Clock {
        Clock { since: 0, shown_ns, fast_ppm, wall_ms, stands: None }
    }

    fn boot_ns(&self, now: Nanos) -> u64 {
        let now = self.stands.map_or(now, |since| since.min(now));
        let passed = i128::from(now.saturating_sub(self.since));
        let shown = i128::from(self.shown_ns) + passed * (MILLION + i128::from(self.fast_ppm)) / MILLION;
        u64::try_from(shown).expect("time does not run out")
    }

    pub fn now(&self, now: Nanos) -> Now {
        Now { boot_ns: self.boot_ns(now), wall_ms: self.wall_ms.wrapping_add(now / MS) }
    }

    /// The first moment at which it shows this millisecond.
    pub fn true_time_of(&self, shown_ms: u64) -> Nanos {
        let left = i128::from(shown_ms) * i128::from(MS) - i128::from(self.shown_ns);
        if left <= 0 {
            return self.since;
        }
        let rate = MILLION + i128::from(self.fast_ppm);
        let passed = (left * MILLION + rate - 1) / rate;
        self.since + u64::try_from(passed).unwrap_or(u64::MAX / 4)
    }

    /// The machine was off: `CLOCK_BOOTTIME` begins anew.
    pub fn boot(&mut self, now: Nanos, shown_ns: u64) {
        (self.since, self.shown_ns, self.stands) = (now, shown_ns, None);
    }

    /// It stands still until [`Clock::goes`].
    pub fn stands(&mut self, now: Nanos) {
        self.stands.get_or_insert(now);
    }

    pub fn goes(&mut self, now: Nanos) {
        let shown = self.boot_ns(now);
        if self.stands.is_some() {
            self.boot(now, shown);
        }
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&mut self, wall_ms: u64) {
        self.wall_ms = wall_ms;
    }
}

#[test]
fn a_clock_shows_a_moment_from_its_true_time_on_and_not_before() {
    for fast_ppm in [-10_000, -37, 0, 1, 10_000] {
        let mut clock = Clock::new(12_345_678_901, fast_ppm, 0);
        for shown_ms in [12_346, 20_000, 1_000_000] {
            let at = clock.true_time_of(shown_ms);
            assert!(clock.now(at).boot_ns >= shown_ms * MS, "{fast_ppm} {shown_ms}");
            assert!(at == 0 || clock.now(at - 2).boot_ns < shown_ms * MS, "{fast_ppm} {shown_ms}");
        }
        clock.stands(50 * MS);
        let stood = clock.now(90 * MS).boot_ns;
        assert_eq!(stood, clock.now(50 * MS).boot_ns);
        clock.goes(90 * MS);
        assert_eq!(clock.now(90 * MS).boot_ns, stood);
        assert!(clock.now(91 * MS).boot_ns > stood);
    }
}
