//! Liveness: whatever has gone wrong, once everything goes well again, what is replicated is replicated.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::tests::rules;
use super::*;
use crate::protocol::{Check, Job};
use crate::settings::OnFailure;
use crate::state::Replication;

/// The children and the lock, as the machine finds them: each fault is a byte, and where there are none left all goes well.
#[expect(clippy::struct_excessive_bools, reason = "who lives, and what has been")]
struct World {
    machine: Machine,
    now: Now,
    faults: VecDeque<u8>,
    answers: VecDeque<Event>,
    litestream: bool,
    /// `__prepare` lives on and holds pins.
    pins: bool,
    started: bool,
    ended: bool,
}

const KILLED: Ended = Ended::Signal(KILL);
const WELL: Ended = Ended::Code(0);

impl World {
    fn new(rules: Rules, faults: Vec<u8>) -> Self {
        let mut machine = Machine::new(rules);
        let actions = machine.start(Now::ZERO);
        let (faults, answers) = (faults.into(), VecDeque::new());
        let mut world = Self { machine, now: Now::ZERO, faults, answers, litestream: false, pins: false, started: false, ended: false };
        world.do_all(actions);
        world
    }

    fn step(&mut self, event: Event) {
        let actions = self.machine.step(event, self.now);
        self.do_all(actions);
    }

    fn do_all(&mut self, actions: Actions) {
        for action in actions {
            let fault = self.faults.pop_front().unwrap_or_default();
            self.answer(&action, fault);
        }
    }

    /// What comes of an action.
    fn answer(&mut self, action: &Action, fault: u8) {
        let about = |role: Role| move |event: &Event| !matches!(event, Event::Ended(of, _) | Event::NotStarted(of) if *of == role);
        match action {
            Action::Prepare(_) => {
                self.pins = false;
                self.answers.push_back(match fault % 8 {
                    1 => Event::NotStarted(Role::Prepare),
                    2 => Event::Ended(Role::Prepare, KILLED),
                    3 => Event::Said(Message::Ready { held: false, unproven: true }),
                    4 => {
                        self.pins = true;
                        Event::Said(Message::Ready { held: true, unproven: false })
                    }
                    _ => Event::Said(Message::Ready { held: false, unproven: false }),
                });
            }
            Action::Replicate => {
                self.litestream = fault % 8 > 2 || fault == 0;
                self.answers.push_back(match fault % 8 {
                    1 => Event::NotStarted(Role::Litestream),
                    2 => Event::Ended(Role::Litestream, Ended::Code(1)),
                    _ => Event::Hello,
                });
            }
            Action::Kill(Role::Litestream) => {
                self.litestream = false;
                self.answers.retain(|event| *event != Event::Hello && about(Role::Litestream)(event));
            }
            Action::Kill(Role::Prepare) | Action::Stop(Role::Prepare) => {
                self.pins = false;
                self.answers.retain(|event| !matches!(event, Event::Said(Message::Ready { .. })) && about(Role::Prepare)(event));
            }
            Action::LetGo if std::mem::take(&mut self.litestream) => {
                self.answers.retain(|event| *event != Event::Hello);
                self.answers.push_back(Event::Ended(Role::Litestream, WELL));
            }
            Action::TryLock => self.answers.push_back(Event::Lock(match fault % 4 {
                1 => Lock::Theirs(Holder::Passed),
                2 => Lock::Theirs(Holder::Undecided),
                _ => Lock::Ours,
            })),
            Action::Work(Job::Probe) => self.answers.push_back(Event::Ended(Role::Work(Job::Probe), WELL)),
            Action::Work(Job::Check) => self.answers.push_back(Event::Ended(Role::Work(Job::Check), WELL)),
            Action::Work(Job::Pulse) => {
                self.answers.extend(match fault % 6 {
                    1 => Some(Event::Said(Message::Hung("x".into()))),
                    2 => Some(Event::Said(Message::Begin("x".into()))),
                    _ => None,
                });
                self.answers.push_back(Event::Ended(Role::Work(Job::Pulse), WELL));
            }
            Action::Kill(Role::Work(Job::Pulse)) => self.answers.retain(|event| !is_of_pulse(event)),
            Action::StartApp => self.started = true,
            Action::Exit(_) => self.ended = true,
            _ => {}
        }
    }

    /// What comes of itself.
    fn trouble(&mut self) {
        match self.faults.pop_front().unwrap_or_default() {
            1..=20 if self.litestream => {
                self.litestream = false;
                self.answers.retain(|event| *event != Event::Hello);
                self.answers.push_back(Event::Ended(Role::Litestream, KILLED));
            }
            21..=30 if std::mem::take(&mut self.pins) => self.answers.push_back(Event::Ended(Role::Prepare, KILLED)),
            31..=35 if self.pins => self.answers.push_back(Event::Said(Message::Released)),
            36..=40 => self.answers.push_back(Event::StoodStill),
            41..=45 => self.answers.push_back(Event::Said(Message::Resnapshot)),
            _ => {}
        }
    }

    /// Until something is to be done no more, or it replicates and no fault is left.
    fn go_on(&mut self) {
        let mut well_since = None;
        for _ in 0..20_000 {
            self.trouble();
            if self.ended || self.is_well() && self.faults.is_empty() && self.answers.is_empty() {
                return;
            }
            if self.faults.is_empty() {
                assert!(
                    self.now.saturating_sub(*well_since.get_or_insert(self.now)) < Duration::from_secs(1500),
                    "never: {:?}",
                    self.machine
                );
            }
            match (self.answers.pop_front(), self.machine.deadline()) {
                (Some(event), _) => self.step(event),
                (None, Some(due)) => {
                    self.now = due.max(self.now);
                    self.step(Event::Tick);
                }
                (None, None) => panic!("it waits for nothing: {:?}", self.machine),
            }
        }
        panic!("it comes to no end: {:?}", self.machine);
    }

    fn is_well(&self) -> bool {
        self.machine.view().replication == Replication::Up && self.machine.app == AppState::Running
    }
}

fn is_of_pulse(event: &Event) -> bool {
    matches!(event, Event::Ended(Role::Work(Job::Pulse), _) | Event::Said(Message::Hung(_) | Message::Begin(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000), ..ProptestConfig::default() })]

    #[test]
    fn when_everything_goes_well_again_what_is_replicated_is_replicated(
        flags in any::<[bool; 4]>(),
        faults in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let [standby, confirms, watches, check] = flags;
        let check = check.then_some(Check { first: Duration::from_secs(20), every: Duration::from_secs(30) });
        let rules = Rules { standby, confirms, repairs: confirms, watches, check, on_failure: OnFailure::Restart, ..rules() };
        let mut world = World::new(rules, faults);
        world.go_on();
        // A boot whose worker dies each time is given up.
        prop_assert!(!(world.ended && world.started), "nothing asked for an end");
    }
}
