//! The machine's table: what each event does in each state, and what holds for any sequence of them.

use proptest::prelude::*;

use super::*;
use crate::protocol::{Check, Job};
use crate::settings::OnFailure;

pub(super) fn rules() -> Rules {
    Rules {
        replicates: true,
        job: false,
        last_words: None,
        app: true,
        here: false,
        standby: false,
        wait: false,
        wait_for: None,
        names: vec!["default".to_owned()],
        replica: None,
        confirms: true,
        watches: false,
        check: None,
        serves: false,
        migrate: None,
        rollback: false,
        rewrite: Vec::new(),
        stop_signals: Vec::new(),
        repairs: true,
        on_failure: OnFailure::Restart,
        stop_timeout: Duration::from_secs(10),
        reserve: Duration::from_secs(3),
    }
}

const CHECK: Check = Check { first: Duration::from_secs(20), every: Duration::from_secs(30) };
const READY: Event = Event::Said(Message::Ready { held: false, unproven: false });
const HELD: Event = Event::Said(Message::Ready { held: true, unproven: false });
const ZERO: Ended = Ended::Code(0);

fn at(seconds: f64) -> Now {
    Duration::from_secs_f64(seconds)
}

/// How Litestream first starts, beside a process for the app.
const FIRST: [Action; 2] = [Action::Replicate, Action::ReadyApp];

/// How the app starts, and those who stand by hear of it.
const STARTED: [Action; 2] = [Action::StartApp, Action::Pass];

/// A machine driven by a script; each step's actions are the last.
struct Life {
    machine: Machine,
    now: Now,
    last: Actions,
}

impl Life {
    fn begin(rules: Rules) -> Self {
        let mut machine = Machine::new(rules);
        let last = machine.start(Now::ZERO);
        Self { machine, now: Now::ZERO, last }
    }

    fn then(mut self, event: Event) -> Self {
        self.last = self.machine.step(event, self.now);
        self
    }

    fn after(mut self, seconds: f64) -> Self {
        self.now = self.now.saturating_add(at(seconds));
        self.then(Event::Tick)
    }

    #[track_caller]
    fn does(self, actions: &[Action]) -> Self {
        assert_eq!(self.last, actions);
        self
    }

    #[track_caller]
    fn says_and(self, rest: &[Action]) -> Self {
        assert!(matches!(self.last.first(), Some(Action::Say(_))), "{:?}", self.last);
        assert_eq!(&self.last[1..], rest);
        self
    }

    /// A boot on a kept volume, up to the app's start.
    fn running() -> Self {
        Self::begin(rules()).then(READY).does(&FIRST).then(Event::Hello).does(&STARTED)
    }
}

#[test]
fn the_app_starts_only_when_databases_are_ready_and_litestream_has_reported_in() {
    Life::begin(rules()).does(&[Action::Prepare(Preparation::Boot)]).then(READY).does(&FIRST).then(Event::Hello).does(&STARTED);
    Life::begin(rules()).then(HELD).does(&FIRST).then(Event::Hello).does(&STARTED);
}

#[test]
fn an_app_that_fails_soon_after_its_start_beside_pins_is_noted() {
    let running = || Life::begin(rules()).then(HELD).then(Event::Hello).does(&STARTED);
    let ended = |code| Event::Ended(Role::App, Ended::Code(code));
    running().after(2.0).then(ended(1)).does(&[Action::Doubt, Action::Drain(TERM)]);
    running().after(2.0).then(ended(0)).does(&[Action::Drain(TERM)]);
    running().after(31.0).then(ended(1)).does(&[Action::Drain(TERM)]);
    running().then(Event::Ended(Role::App, Ended::Signal(KILL))).does(&[Action::Drain(TERM)]);
    running().then(Event::Signal(TERM)).then(ended(1)).does(&[Action::Drain(TERM)]);
    Life::running().then(ended(1)).does(&[Action::Drain(TERM)]);
    let undecided = Life::begin(rules()).then(Event::Said(Message::Waits)).does(&[Action::StartApp]).then(ended(1));
    assert!(undecided.last.contains(&Action::Doubt), "{:?}", undecided.last);
}

#[test]
fn a_refused_restore_ends_the_boot_with_its_code_and_the_app_never_starts() {
    let life = Life::begin(rules()).then(Event::Said(Message::Refused(69)));
    life.does(&[Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(69)]).then(READY).does(&[]);
}

#[test]
fn a_stop_during_the_boot_ends_it_and_other_signals_wait_for_the_app() {
    let kill = [Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(143)];
    // A restore takes away what it has begun; not for ever, and not if it is asked twice.
    let stop = [Action::Kill(Role::Litestream), Action::Stop(Role::Prepare)];
    let life = || Life::begin(rules()).then(Event::Signal(TERM)).does(&stop);
    life().then(Event::Ended(Role::Prepare, Ended::Code(143))).does(&kill).then(READY).does(&[]);
    life().then(Event::Said(Message::Refused(143))).does(&kill);
    life().then(READY).does(&kill);
    // The worker may die, too.
    life().then(Event::Ended(Role::Prepare, Ended::Signal(9))).does(&kill);
    life().then(Event::Signal(10)).does(&[]).after(1.9).does(&[]).after(0.1).does(&kill);
    life().then(Event::Signal(TERM)).does(&kill);
    let life = Life::begin(rules()).then(Event::Signal(10)).does(&[]).then(READY).then(Event::Hello);
    life.does(&[Action::StartApp, Action::Pass, Action::SignalApp(10)]);
}

#[test]
fn signals_are_rewritten_on_their_way_and_a_stop_stays_one() {
    let rules = Rules { rewrite: vec![(TERM, QUIT), (10, 0)], ..rules() };
    let running = || Life::begin(rules.clone()).then(READY).then(Event::Hello).does(&STARTED);
    running().then(Event::Signal(10)).does(&[]).then(Event::Signal(12)).does(&[Action::SignalApp(12)]);
    let life = running().then(Event::Signal(TERM)).does(&[Action::EndApp(QUIT)]);
    assert!(life.machine.deadline().is_some_and(|at| at < self::at(10.0)), "the stop timeout runs");
    Life::begin(rules.clone()).then(Event::Signal(12)).then(READY).then(Event::Hello).does(&[
        Action::StartApp,
        Action::Pass,
        Action::SignalApp(12),
    ]);
}

#[test]
fn a_migration_runs_in_the_apps_place_and_only_a_good_end_starts_the_app() {
    let migrating = |rollback| {
        let rules = Rules { migrate: Some(Duration::from_secs(60)), rollback, ..rules() };
        Life::begin(rules).then(READY).then(Event::Hello).does(&[Action::Migrate])
    };
    let ended = |code| Event::Ended(Role::App, Ended::Code(code));
    migrating(false).then(ended(0)).does(&[Action::StartApp, Action::Pass]).then(ended(5)).does(&[Action::Drain(TERM)]);
    // What the app writes must not be taken away by a copy from before it.
    let removed = |code| Event::Ended(Role::Work(Job::Forget), Ended::Code(code));
    let ends = || migrating(true).then(ended(0)).does(&[Action::Work(Job::Forget)]);
    ends().then(Event::Signal(10)).does(&[]).then(removed(0)).does(&[Action::StartApp, Action::Pass, Action::SignalApp(10)]);
    ends().then(removed(71)).does(&[Action::Work(Job::Forget)]).then(removed(0)).does(&[Action::StartApp, Action::Pass]);
    let life = ends().then(removed(71)).then(removed(71)).then(removed(71)).then(removed(71)).says_and(&[Action::Drain(TERM)]);
    let life = life.then(Event::Left(0)).then(Event::Said(Message::Flushed)).then(Event::Ended(Role::Litestream, ZERO));
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(71)]);
    ends().then(Event::Signal(TERM)).does(&[Action::Drain(TERM)]).then(removed(0)).does(&[]);
    // Saved as it is, or put back.
    let failed = |rollback| migrating(rollback).then(ended(7)).says_and(&[Action::Drain(TERM)]).then(Event::Left(0));
    let life = failed(false).does(&[Action::Flush(Sync::Socket, at(9.2))]).then(Event::Said(Message::Flushed)).does(&[Action::LetGo]);
    life.then(Event::Ended(Role::Litestream, ZERO)).does(&shared()).then(Event::Said(Message::Flushed)).does(&[Action::Exit(7)]);
    let life = failed(true).does(&[Action::Kill(Role::Litestream), Action::Flush(Sync::Rollback, at(9.2))]);
    // And then what it was put back to.
    let life = life.then(Event::Said(Message::Flushed)).does(&[Action::Flush(Sync::Pass, at(9.2))]);
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(7)]);
    // It gets signals as the app does; a stop is no success, and neither is one that takes too long.
    let life = migrating(false).then(Event::Signal(TERM)).does(&[Action::EndApp(TERM)]).then(ended(0)).says_and(&[Action::Drain(TERM)]);
    let life = life.then(Event::Left(0)).then(Event::Said(Message::Flushed)).then(Event::Ended(Role::Litestream, ZERO));
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(143)]);
    let life = migrating(false).after(5.0).then(Event::Ended(Role::Work(Job::Pulse), ZERO)).after(55.0);
    assert!(matches!(life.last.as_slice(), [Action::Work(Job::Pulse), Action::Say(_), Action::EndApp(TERM)]), "{:?}", life.last);
}

#[test]
fn a_good_end_drains_then_syncs_then_lets_litestream_go_then_exits_with_the_apps_code() {
    let life = Life::running().then(Event::Ended(Role::App, Ended::Code(3))).does(&[Action::Drain(TERM)]);
    let life = life.then(Event::Left(0)).does(&[Action::Flush(Sync::Socket, at(9.2))]);
    let life = life.then(Event::Said(Message::Flushed)).does(&[Action::LetGo]);
    // Others may write still, whom the sync has left without Litestream's lock.
    let life = life.then(Event::Ended(Role::Litestream, ZERO)).does(&shared());
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(3)]);
}

/// What follows the end of a Litestream that has confirmed the last sync.
fn shared() -> [Action; 1] {
    [Action::Flush(Sync::Shared, at(9.2))]
}

#[test]
fn without_a_socket_litestream_ends_first_and_a_pass_confirms() {
    let life = Life::begin(Rules { confirms: false, repairs: false, ..rules() }).then(READY).then(Event::Hello);
    let life = life.then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).does(&[Action::LetGo]);
    let life = life.then(Event::Ended(Role::Litestream, Ended::Code(1))).does(&[Action::Flush(Sync::Pass, at(9.2))]);
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(0)]);
}

#[test]
fn a_litestream_that_does_not_end_leaves_time_for_a_pass() {
    let life = Life::begin(Rules { confirms: false, repairs: false, ..rules() }).then(READY).then(Event::Hello);
    let life = life.then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).does(&[Action::LetGo]).after(4.0).does(&[]);
    let flush = Action::Flush(Sync::Pass, at(9.2));
    life.after(0.75).says_and(&[Action::Kill(Role::Litestream), flush]);
    // With more time there is no need to wait for half of it.
    let life = Life::begin(Rules { confirms: false, stop_timeout: Duration::from_secs(60), ..rules() }).then(READY).then(Event::Hello);
    let life = life.then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).after(4.9).does(&[]).after(0.1);
    assert!(matches!(life.last[..], [Action::Say(_), Action::Kill(Role::Litestream), Action::Flush(Sync::Pass, _)]));
    // One that has made the last sync owes nothing any more.
    let life = Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).then(Event::Said(Message::Flushed));
    let [shared] = shared();
    life.does(&[Action::LetGo]).after(4.8).says_and(&[Action::Kill(Role::Litestream), shared]);
}

#[test]
fn a_stop_is_one_by_what_the_app_gets_of_it_or_because_somebody_has_said_so() {
    const USR1: i32 = 10;
    const WINCH: i32 = 28;
    let running = |rules: Rules| Life::begin(rules).then(READY).then(Event::Hello);
    let plain = running(rules()).then(Event::Signal(WINCH)).does(&[Action::SignalApp(WINCH)]);
    assert_eq!(plain.machine.stop_by, None);
    let rewritten = running(Rules { rewrite: vec![(WINCH, TERM)], ..rules() }).then(Event::Signal(WINCH)).does(&[Action::EndApp(TERM)]);
    assert_eq!(rewritten.machine.stop_by, Some(at(9.5)));
    for signal in [WINCH, USR1] {
        let rules = Rules { stop_signals: vec![signal], ..rules() };
        let stopped = running(rules.clone()).then(Event::Signal(signal)).does(&[Action::EndApp(signal)]);
        assert_eq!(stopped.machine.stop_by, Some(at(9.5)));
        stopped.after(6.5).says_and(&[Action::SignalApp(KILL)]);
        // What a shell left behind is not asked by what nobody looks for.
        let left = running(rules.clone()).then(Event::Signal(signal)).then(Event::Ended(Role::App, ZERO));
        left.does(&[Action::Drain(if signal == WINCH { TERM } else { signal })]);
        // Before the app it ends the boot.
        Life::begin(rules).then(Event::Signal(signal)).does(&[Action::Kill(Role::Litestream), Action::Stop(Role::Prepare)]);
    }
}

#[test]
fn a_worker_of_the_last_sync_that_says_nothing_is_replaced() {
    let life = Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0));
    let life = life.after(4.0).does(&[]).then(Event::Said(Message::Beat)).does(&[]).after(4.0).does(&[]).after(0.7);
    let life = life.says_and(&[Action::Kill(Role::Flush), Action::Flush(Sync::Socket, at(9.2))]);
    // With next to no time left another one could do nothing, either.
    life.after(0.3).does(&[]).after(0.2).does(&[]);
    let alone = Life::begin(Rules { here: true, ..rules() }).then(Event::Said(Message::Waits)).then(Event::Ended(Role::App, ZERO));
    let life = alone.then(Event::Left(0)).does(&[Action::Prepare(Preparation::Ending)]).after(4.8);
    life.says_and(&[Action::Kill(Role::Prepare), Action::Prepare(Preparation::Ending)]);
}

#[test]
fn what_is_not_saved_turns_0_into_74_and_is_the_last_line_but_keeps_any_other_code() {
    for (code, exit) in [(0, 74), (3, 3)] {
        let life = Life::running().then(Event::Ended(Role::App, Ended::Code(code))).then(Event::Left(0));
        let life =
            life.then(Event::Said(Message::Unsaved("default: refused".into()))).then(Event::Said(Message::Flushed)).does(&[Action::LetGo]);
        life.then(Event::Ended(Role::Litestream, ZERO)).does(&[Action::Say("NOT SAVED: default: refused".into()), Action::Exit(exit)]);
    }
}

#[test]
fn an_app_that_ignores_term_is_killed_early_enough_for_the_last_sync() {
    let life = Life::running().then(Event::Signal(TERM)).does(&[Action::EndApp(TERM)]);
    assert_eq!(life.machine.deadline(), Some(at(6.5)));
    let life = life.after(6.5).says_and(&[Action::SignalApp(KILL)]);
    life.then(Event::Ended(Role::App, Ended::Signal(9))).does(&[Action::Drain(TERM)]);
}

#[test]
fn a_second_term_goes_to_the_app_while_it_lives_and_cuts_the_sync_short_after() {
    let life = Life::running().then(Event::Signal(TERM)).then(Event::Signal(TERM)).does(&[Action::EndApp(TERM)]);
    let life = life.then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).then(Event::Signal(TERM));
    life.says_and(&[Action::Exit(74)]);
    // The first one after an app that ended by itself only asks for what is under way.
    let life = Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).then(Event::Signal(TERM)).does(&[]);
    life.then(Event::Signal(TERM)).says_and(&[Action::Exit(74)]);
}

#[test]
fn what_the_app_left_behind_gets_term_then_kill_before_the_sync() {
    let life = Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(2)).does(&[Action::Name(Named::LeftBehind)]);
    let life = life.after(0.5).does(&[Action::Drain(0)]).then(Event::Left(2)).does(&[]);
    let life = life.after(0.6).does(&[Action::Name(Named::Killed), Action::Name(Named::OutsideKilled), Action::Drain(KILL)]);
    let life = life.then(Event::Left(1)).does(&[]).after(0.02).does(&[Action::Drain(KILL)]).then(Event::Left(0));
    assert!(matches!(life.last[..], [Action::Flush(Sync::Socket, _)]));
    // One that failed may well leave something behind.
    Life::running().then(Event::Ended(Role::App, Ended::Code(1))).then(Event::Left(2)).does(&[]);
}

#[test]
fn after_a_stop_what_the_app_left_behind_has_the_rest_of_its_share_and_what_came_from_outside_a_second() {
    let stopped = || Life::running().then(Event::Signal(TERM)).then(Event::Ended(Role::App, Ended::Signal(TERM)));
    let life = stopped().does(&[Action::Drain(TERM)]).then(Event::Left(2)).does(&[]);
    let life = life.after(0.9).does(&[Action::Drain(0)]).then(Event::Left(2)).does(&[]);
    let life = life.after(0.2).does(&[Action::Name(Named::OutsideKilled), Action::KillOutside]).then(Event::Left(1)).does(&[]);
    let life = life.after(0.1).does(&[Action::KillOutside]).then(Event::Left(1)).after(5.2).does(&[Action::KillOutside]);
    let life = life.after(0.2).does(&[Action::Name(Named::Killed), Action::Drain(KILL)]).then(Event::Left(0));
    assert!(matches!(life.last[..], [Action::Flush(Sync::Socket, _)]));
    // It is the app still: a second TERM is for it, in the words of the first.
    stopped().then(Event::Left(1)).then(Event::Signal(TERM)).does(&[Action::Drain(TERM)]);
    let rewriting = Rules { rewrite: vec![(TERM, QUIT)], ..rules() };
    let life = Life::begin(rewriting).then(READY).then(Event::Hello).then(Event::Signal(TERM)).does(&[Action::EndApp(QUIT)]);
    life.then(Event::Ended(Role::App, ZERO)).does(&[Action::Drain(QUIT)]).then(Event::Signal(INT)).does(&[Action::Drain(INT)]);
    // The app itself has used its share up.
    let life = Life::running().then(Event::Signal(TERM)).after(6.5).then(Event::Ended(Role::App, Ended::Signal(KILL)));
    life.then(Event::Left(1)).after(0.8).does(&[Action::Name(Named::Killed), Action::Name(Named::OutsideKilled), Action::Drain(KILL)]);
}

#[test]
fn litestream_that_dies_is_replaced_at_once_on_a_wal_made_fit_then_with_backoff() {
    let died = || Event::Ended(Role::Litestream, Ended::Signal(9));
    let life = Life::running().then(died()).says_and(&[Action::Prepare(Preparation::Repair)]);
    let life = life.then(READY).does(&[Action::Replicate]).then(Event::Hello).says_and(&[]);
    let life = life.then(died()).says_and(&[]);
    life.after(0.9).does(&[]).after(0.2).does(&[Action::Prepare(Preparation::Repair)]);
}

#[test]
fn a_pin_held_since_the_boot_needs_no_snapshot_but_one_let_go_does() {
    let pinned = || Life::begin(rules()).then(HELD).then(Event::Hello).does(&STARTED);
    let died = || Event::Ended(Role::Litestream, Ended::Code(1));
    pinned().then(died()).says_and(&[Action::Replicate]);
    pinned()
        .then(Event::Said(Message::Released))
        .then(died())
        .says_and(&[Action::Kill(Role::Prepare), Action::Prepare(Preparation::Repair)]);
}

#[test]
fn pins_that_die_before_litestream_has_its_lock_cost_it_its_life_and_a_snapshot() {
    let pinned = || Life::begin(rules()).then(HELD).then(Event::Hello).does(&STARTED);
    let killed = || Event::Ended(Role::Prepare, Ended::Signal(9));
    let life = pinned().then(killed()).says_and(&[Action::Kill(Role::Litestream), Action::Prepare(Preparation::Repair)]);
    life.then(READY).does(&[Action::Replicate]);
    // They have been let go of: its end means nothing.
    pinned().then(Event::Said(Message::Released)).then(Event::Ended(Role::Prepare, ZERO)).does(&[]);
    // While what the app left behind may still write, and before the app.
    let life = pinned().then(Event::Ended(Role::App, ZERO)).then(killed()).says_and(&[Action::Kill(Role::Litestream)]);
    assert!(matches!(life.then(Event::Left(0)).last[..], [.., Action::Flush(Sync::Pass, _)]));
    let life = Life::begin(rules()).then(HELD).then(killed()).does(&[]).then(Event::Hello).does(&STARTED);
    life.after(1.1).does(&[Action::Work(Job::Pulse), Action::LetGo]);
}

#[test]
fn a_configuration_that_litestream_refuses_ends_the_boot_and_a_replica_out_of_reach_does_not() {
    let failed = || Life::begin(rules()).then(READY).then(Event::Ended(Role::Litestream, Ended::Code(1))).does(&[Action::Work(Job::Probe)]);
    failed().then(Event::Ended(Role::Work(Job::Probe), Ended::Code(exit::CONFIG))).does(&[
        Action::Kill(Role::Prepare),
        Action::Kill(Role::Litestream),
        Action::Exit(78),
    ]);
    let life = failed().then(Event::Ended(Role::Work(Job::Probe), ZERO)).says_and(&STARTED);
    life.after(1.1).does(&[Action::Prepare(Preparation::Repair)]);
    // A stop has come meanwhile: whatever it would have said, no app starts any more, and the last sync is made.
    for code in [0, exit::CONFIG] {
        let life = failed().then(Event::Signal(TERM)).then(Event::Left(0)).does(&[Action::Flush(Sync::Pass, at(9.2))]);
        let life = life.then(Event::Ended(Role::Work(Job::Probe), Ended::Code(code))).does(&[]);
        life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(143)]);
    }
}

#[test]
fn a_litestream_that_was_to_be_started_again_does_not_keep_pid_1_awake_at_the_end() {
    let died = || Event::Ended(Role::Litestream, Ended::Code(1));
    let life = Life::begin(rules()).then(READY).then(Event::Hello).then(died()).then(READY).then(died());
    let life = life.after(0.2).then(Event::Ended(Role::App, ZERO)).then(Event::Left(0));
    assert!(matches!(life.last[..], [Action::Flush(Sync::Pass, _)]));
    // Nothing but the worker's silence is due: a deadline that nobody clears is one that PID 1 wakes for again and again.
    assert_eq!(life.machine.deadline(), life.machine.silent_by);
}

#[test]
fn a_litestream_that_hangs_at_its_start_does_not_keep_the_app_for_ever() {
    let life = Life::begin(rules()).then(READY).after(9.0).does(&[]).after(1.1).says_and(&STARTED);
    // Nor is it waited for for ever: the next one may come up, and has longer.
    let again = |life: &Life| {
        matches!(life.last[..], [Action::Say(_), Action::Kill(Role::Litestream), Action::Say(_), Action::Prepare(Preparation::Repair)])
    };
    let life = life.after(19.0).does(&[]).after(1.0);
    assert!(again(&life), "{:?}", life.last);
    let life = life.then(READY).does(&[Action::Replicate]).after(59.0).does(&[]).after(1.1);
    assert!(again(&life), "{:?}", life.last);
    let life = life.then(READY).then(Event::Hello).says_and(&[]).after(1000.0);
    assert_eq!(life.last, [Action::Work(Job::Pulse)]);
}

#[test]
fn a_litestream_that_hangs_is_killed_when_it_has_been_seen_twice_in_a_row() {
    let hung = || Event::Said(Message::Hung("no answer".into()));
    let looked = || Event::Ended(Role::Work(Job::Pulse), ZERO);
    let seen = |life: Life| life.then(hung()).does(&[]).then(looked());
    let life = Life::running().after(0.9).does(&[]).after(0.1).does(&[Action::Work(Job::Pulse)]);
    // Once may be a moment.
    let life = seen(life).after(2.0).does(&[Action::Work(Job::Pulse)]).then(looked()).after(5.0).does(&[Action::Work(Job::Pulse)]);
    let life = seen(life).after(2.0).does(&[Action::Work(Job::Pulse)]).then(hung());
    assert!(matches!(
        life.last.as_slice(),
        [Action::Say(_), Action::Kill(Role::Litestream), Action::Say(_), Action::Prepare(Preparation::Repair)]
    ));
    life.then(looked()).after(30.0).does(&[]).then(READY).does(&[Action::Replicate]).then(Event::Hello);
}

#[test]
fn a_backup_that_is_not_whole_begins_anew_by_a_litestream_that_is_started_again() {
    let begin = || Event::Said(Message::Begin("app: was replaced".into()));
    let life = Life::running().then(begin()).says_and(&[Action::Kill(Role::Litestream), Action::Prepare(Preparation::Repair)]);
    // Another database's, found by the same look: it is seen to by the same start.
    let life = life.then(begin()).says_and(&[]).then(Event::Ended(Role::Work(Job::Pulse), ZERO)).does(&[]);
    life.then(READY).does(&[Action::Replicate]).then(Event::Hello).after(5.0).does(&[Action::Work(Job::Pulse)]);
    Life::begin(rules()).then(begin()).does(&[]);
    let older = || Life::begin(Rules { repairs: false, confirms: false, ..rules() }).then(READY).then(Event::Hello);
    let life = older().then(begin()).says_and(&[Action::Kill(Role::Litestream), Action::Prepare(Preparation::Repair)]);
    life.then(READY).does(&[Action::Replicate]);
}

#[test]
fn a_last_sync_that_the_running_litestream_cannot_make_is_made_by_a_pass() {
    let syncing = || Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0));
    let life = syncing().then(Event::Said(Message::Unsaved("app: x".into()))).then(Event::Said(Message::ByPass));
    let life = life.does(&[Action::Kill(Role::Flush), Action::Kill(Role::Litestream), Action::Flush(Sync::Pass, at(9.2))]);
    let life = life.then(Event::Said(Message::ByPass)).does(&[]);
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(0)]);
    Life::running().then(Event::Said(Message::ByPass)).does(&[]);
}

#[test]
fn the_policies_exit_and_ignore_do_what_they_say() {
    let with = |on_failure| Life::begin(Rules { on_failure, ..rules() }).then(READY).then(Event::Hello);
    let died = || Event::Ended(Role::Litestream, Ended::Signal(9));
    let life =
        with(OnFailure::Exit).then(died()).says_and(&[Action::EndApp(TERM)]).then(Event::Ended(Role::App, ZERO)).then(Event::Left(0));
    let life = life.does(&[Action::Flush(Sync::Pass, at(9.2))]);
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(exit::INTERNAL)]);
    with(OnFailure::Ignore).then(died()).says_and(&[]).after(60.0).does(&[]);
}

#[test]
fn litestream_that_dies_before_or_under_the_last_sync_is_replaced_by_a_pass() {
    let died = || Event::Ended(Role::Litestream, Ended::Signal(9));
    let ended = || Life::running().then(Event::Ended(Role::App, ZERO));
    ended().then(died()).does(&[]).then(Event::Left(0)).does(&[Action::Flush(Sync::Pass, at(9.2))]);
    ended().then(Event::Left(0)).then(died()).does(&[Action::Kill(Role::Flush), Action::Flush(Sync::Pass, at(9.2))]);
}

#[test]
fn a_litestream_that_does_not_end_to_be_started_again_is_killed() {
    let life =
        Life::running().then(Event::Said(Message::Resnapshot)).says_and(&[Action::LetGo]).after(1.1).does(&[Action::Work(Job::Pulse)]);
    life.then(Event::Ended(Role::Work(Job::Pulse), ZERO))
        .after(43.0)
        .does(&[])
        .after(1.0)
        .says_and(&[Action::Kill(Role::Litestream), Action::Prepare(Preparation::Repair)])
        .then(READY)
        .does(&[Action::Replicate]);
}

#[test]
fn an_unproven_backup_is_made_whole_at_the_next_chance() {
    let unproven = Event::Said(Message::Ready { held: false, unproven: true });
    let life = Life::begin(rules()).then(unproven).then(Event::Hello).does(&STARTED);
    let life = life
        .after(29.0)
        .does(&[Action::Work(Job::Pulse)])
        .then(Event::Ended(Role::Work(Job::Pulse), ZERO))
        .after(2.0)
        .does(&[Action::LetGo]);
    let life = life.then(Event::Ended(Role::Litestream, ZERO)).does(&[Action::Prepare(Preparation::Repair)]);
    life.then(READY).does(&[Action::Replicate]).then(Event::Hello).after(700.0).does(&[Action::Work(Job::Pulse)]);
    let life = Life::begin(rules()).then(HELD).then(Event::Hello).then(Event::Said(Message::Reopen)).does(&[Action::LetGo]);
    // A stop in that moment must not take its end for the last sync.
    let life = life.then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).does(&[Action::LetGo]);
    assert!(matches!(life.then(Event::Ended(Role::Litestream, ZERO)).last[..], [.., Action::Flush(Sync::Pass, _)]));
}

const SILENT: Event = Event::Lock(Lock::Theirs(Holder::Silent { present: true }));
const PASSED: Event = Event::Lock(Lock::Theirs(Holder::Passed));
const UNDECIDED: Event = Event::Lock(Lock::Theirs(Holder::Undecided));
const OURS: Event = Event::Lock(Lock::Ours);

fn standby() -> Rules {
    Rules { standby: true, ..rules() }
}

#[test]
fn in_standby_the_app_starts_when_the_other_has_passed_and_takes_over_when_it_leaves() {
    let life = Life::begin(standby()).does(&[Action::TryLock]).then(UNDECIDED).does(&[]).after(0.2).does(&[Action::TryLock]);
    let running = || Life::begin(standby()).then(PASSED).does(&[Action::StartApp]);
    life.then(PASSED).does(&[Action::StartApp]);
    let life = running().after(1.1).does(&[Action::TryLock]).then(PASSED).does(&[]);
    let life = life.after(1.1).does(&[Action::TryLock]).then(OURS).says_and(&[Action::Prepare(Preparation::TakeOver)]);
    life.then(READY).does(&[Action::Pass, Action::Replicate]);
    // On 0.3, too.
    let rules = Rules { repairs: false, confirms: false, ..standby() };
    let life = Life::begin(rules).then(PASSED).after(1.1).then(OURS).says_and(&[Action::Prepare(Preparation::TakeOver)]);
    let life = life.after(5.0).does(&[]).then(READY).does(&[Action::Pass, Action::Replicate]).then(Event::Hello);
    assert_eq!(life.machine.view().replication, crate::state::Replication::Up);
    // At its end the other one sees what it wrote.
    let ended = || running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).does(&[Action::TryLock]);
    ended().then(PASSED).does(&[Action::Exit(0)]);
    // Or is not yet the one that replicates it.
    let life = ended().then(UNDECIDED).does(&[]).after(0.2).does(&[Action::TryLock]);
    let life = life.then(UNDECIDED).after(9.9);
    assert!(matches!(&life.last[..], [.., Action::Say(said), Action::Exit(74)] if said.starts_with("NOT SAVED: default: another process")));
    // One that says nothing may be at its own last sync, and leaves then.
    ended().then(SILENT).does(&[]).after(0.2).does(&[Action::TryLock]).then(OURS).does(&[Action::Prepare(Preparation::Ending)]);
    ended().then(SILENT).does(&[]).after(5.0).then(SILENT).does(&[Action::Exit(0)]);
    // Or has left: then it is decided first.
    let alone = || ended().then(OURS).does(&[Action::Prepare(Preparation::Ending)]);
    alone().then(READY).does(&[Action::Flush(Sync::Pass, at(9.2))]).then(Event::Said(Message::Flushed)).does(&[Action::Exit(0)]);
    alone().then(Event::Said(Message::Refused(65))).says_and(&[Action::Exit(74)]);
}

#[test]
fn beside_one_that_says_nothing_the_standby_decides_for_its_app_and_uploads_nothing() {
    let absent = Event::Lock(Lock::Theirs(Holder::Silent { present: false }));
    let life = Life::begin(standby()).then(absent).does(&[]).after(0.2).then(SILENT).does(&[Action::Prepare(Preparation::Beside)]);
    let beside = || Life::begin(standby()).then(SILENT).does(&[]).after(0.2).then(SILENT).does(&[Action::Prepare(Preparation::Beside)]);
    life.after(0.2).then(SILENT).does(&[]).then(READY).does(&[Action::StartApp]).after(1.1).then(SILENT).does(&[]);
    beside().then(Event::Said(Message::Refused(65))).does(&[Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(65)]);
    beside().after(0.2).then(OURS).does(&[Action::Kill(Role::Prepare), Action::Prepare(Preparation::Boot)]);
}

#[test]
fn a_take_over_that_is_refused_stops_the_app_and_uploads_nothing() {
    let taken = || Life::begin(standby()).then(PASSED).after(1.1).then(OURS);
    let life = taken().then(Event::Said(Message::Refused(65))).says_and(&[Action::EndApp(TERM)]);
    let life = life.then(Event::Ended(Role::App, ZERO)).does(&[Action::Drain(TERM)]).then(Event::Left(0));
    assert!(matches!(life.last.as_slice(), [Action::Say(said), Action::Exit(65)] if said.starts_with("NOT SAVED: default: ")));
    // Not decided yet, and the app ends: decided first.
    let life = taken().then(Event::Ended(Role::App, ZERO)).does(&[Action::Kill(Role::Prepare), Action::Drain(TERM)]).then(Event::Left(0));
    life.does(&[Action::Prepare(Preparation::Ending)]).then(READY).does(&[Action::Flush(Sync::Pass, at(9.2 + 1.1))]);
}

#[test]
fn a_migration_that_is_rolled_back_waits_for_the_lock_and_not_for_ever() {
    let alone = || Rules { wait: true, wait_for: Some(Duration::from_secs(120)), migrate: Some(at(60.0)), rollback: true, ..standby() };
    let life = Life::begin(alone()).then(PASSED).does(&[]).after(0.2).does(&[Action::TryLock]).then(OURS);
    life.does(&[Action::Prepare(Preparation::Boot)]).then(READY).then(Event::Hello).does(&[Action::Migrate]).after(130.0);
    let life = Life::begin(alone()).then(PASSED).after(121.0);
    life.says_and(&[Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(71)]);
    // One that is not to be rolled back migrates beside the other.
    let rules = Rules { migrate: Some(at(60.0)), ..standby() };
    Life::begin(rules).then(UNDECIDED).does(&[]).then(PASSED).does(&[Action::Migrate]);
}

#[test]
fn a_boot_that_is_stopped_saves_what_an_earlier_life_left_if_that_is_decided_in_time() {
    let here = || Life::begin(Rules { here: true, ..rules() });
    let term = || Event::Signal(TERM);
    let deciding = || here().then(term()).does(&[Action::Kill(Role::Litestream)]);
    let sync = [Action::Flush(Sync::Pass, at(9.2))];
    deciding()
        .then(READY)
        .does(&[Action::Drain(TERM)])
        .then(Event::Left(0))
        .does(&sync)
        .then(Event::Said(Message::Flushed))
        .does(&[Action::Exit(143)]);
    let kill = |code| [Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(code)];
    deciding().then(Event::Said(Message::Refused(65))).does(&kill(65));
    let life = deciding().after(6.6);
    assert!(
        matches!(&life.last[..], [.., Action::Say(said), Action::Exit(143)] if said.starts_with("NOT SAVED: default: ")),
        "{:?}",
        life.last
    );
    // Decided, and not started yet.
    let life = here().then(READY).does(&FIRST).then(term()).does(&[Action::Drain(TERM)]).then(Event::Left(0));
    life.does(&[Action::Flush(Sync::Socket, at(9.2))]);
}

#[test]
fn where_the_replica_does_not_answer_the_app_starts_and_litestream_when_it_is_decided() {
    let waits = || Life::begin(rules()).then(Event::Said(Message::Waits)).does(&[Action::StartApp]);
    waits().after(600.0).does(&[]).then(HELD).does(&[Action::Replicate]);
    let life = waits().then(Event::Said(Message::Refused(65))).says_and(&[Action::EndApp(TERM)]);
    let life = life.then(Event::Ended(Role::App, Ended::Signal(TERM))).then(Event::Left(0));
    assert!(matches!(&life.last[..], [Action::Say(_), Action::Exit(65)]), "{:?}", life.last);
    let life = waits().then(Event::Ended(Role::App, ZERO)).does(&[Action::Kill(Role::Prepare), Action::Drain(TERM)]).then(Event::Left(0));
    life.does(&[Action::Prepare(Preparation::Ending)]).after(9.6).then(READY).does(&[]);
}

#[test]
fn a_worker_that_is_killed_is_started_again_while_there_is_time() {
    let died = |role| Event::Ended(role, Ended::Signal(KILL));
    let mut life = Life::begin(rules());
    for pause in [0.25, 0.5, 1.0, 2.0, 4.0] {
        life = life
            .then(died(Role::Prepare))
            .says_and(&[])
            .after(pause - 0.01)
            .does(&[])
            .after(0.01)
            .does(&[Action::Prepare(Preparation::Boot)]);
    }
    life.then(died(Role::Prepare)).says_and(&[Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(70)]);
    let sync = Action::Flush(Sync::Socket, at(9.2));
    let life = Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).does(std::slice::from_ref(&sync));
    let life =
        life.then(Event::Said(Message::Unsaved("default: x".into()))).then(died(Role::Flush)).says_and(&[]).after(0.05).does(&[sync]);
    let life = life.then(Event::Said(Message::Flushed)).does(&[Action::LetGo]).then(Event::Ended(Role::Litestream, ZERO)).does(&shared());
    life.then(Event::Said(Message::Flushed)).does(&[Action::Exit(0)]);
}

#[test]
fn past_the_deadline_everything_is_killed_and_the_code_says_so() {
    let life = Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).after(9.6);
    assert!(
        matches!(life.last[..], [Action::Drain(KILL), Action::Kill(_), Action::Kill(_), Action::Kill(_), Action::Say(_), Action::Exit(74)]),
        "{:?}",
        life.last
    );
}

#[test]
fn past_the_deadline_only_what_the_last_sync_has_not_said_to_be_saved_is_named() {
    let two = Rules { names: vec!["app".to_owned(), "jobs".to_owned()], ..rules() };
    let life = Life::begin(two).then(READY).then(Event::Hello).then(Event::Ended(Role::App, ZERO)).then(Event::Left(0));
    let life = life.then(Event::Said(Message::Saved("app".into()))).after(9.6);
    assert!(life.last.iter().any(|a| matches!(a, Action::Say(said) if said.starts_with("NOT SAVED: jobs: "))), "{:?}", life.last);
}

#[test]
fn a_last_sync_that_stood_still_is_made_again_with_the_time_that_is_left() {
    let life = Life::running().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0));
    let [Action::Flush(sync, by)] = life.last[..] else { panic!("{:?}", life.last) };
    let life = life.then(Event::Said(Message::Unsaved("default: x".into()))).then(Event::StoodStill);
    let life = life.says_and(&[Action::Kill(Role::Flush), Action::Flush(sync, by)]);
    life.then(Event::Said(Message::Flushed)).does(&[Action::LetGo]);
    // And so are a restore, and a look for a hang; pins that are held stay.
    let restoring = Life::begin(rules()).then(Event::StoodStill);
    restoring.says_and(&[Action::Kill(Role::Prepare), Action::Prepare(Preparation::Boot)]);
    let pinned = Life::begin(rules()).then(HELD).then(Event::Hello).does(&STARTED).then(Event::StoodStill);
    pinned.says_and(&[Action::Kill(Role::Work(Job::Pulse))]);
}

#[test]
fn nothing_configured_is_a_plain_init() {
    let plain = Rules { replicates: false, ..rules() };
    let life = Life::begin(plain.clone()).does(&[Action::StartApp]).then(Event::Signal(TERM)).does(&[Action::EndApp(TERM)]);
    life.then(Event::Ended(Role::App, Ended::Signal(15))).then(Event::Left(0)).does(&[Action::Exit(143)]);
    assert_eq!(Life::begin(plain).machine.deadline(), None);
}

#[test]
fn a_job_gets_its_databases_and_uploads_nothing_whatever_ends_it() {
    let rules = || Rules { replicates: false, job: true, last_words: Some("not kept".into()), here: true, ..rules() };
    let begin = || Life::begin(rules()).does(&[Action::Prepare(Preparation::Job)]);
    let end = [Action::Say("not kept".into()), Action::Exit(7)];
    begin().then(READY).does(&[Action::StartApp]).then(Event::Ended(Role::App, Ended::Code(7))).then(Event::Left(0)).does(&end);
    let life = begin().then(READY).then(Event::Signal(TERM)).does(&[Action::EndApp(TERM)]).then(Event::Signal(TERM));
    life.then(Event::Ended(Role::App, Ended::Code(7))).then(Event::Left(0)).does(&end);
    let refused = [Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(69)];
    begin().then(Event::Said(Message::Refused(69))).does(&refused);
}

#[test]
fn without_an_app_litestream_runs_until_a_stop() {
    let life = Life::begin(Rules { app: false, ..rules() }).then(READY).then(Event::Hello).does(&[Action::Pass]);
    life.then(Event::Signal(TERM)).does(&[Action::Drain(TERM)]).then(Event::Left(0)).does(&[Action::Flush(Sync::Socket, at(9.2))]);
}

#[test]
fn backups_are_proved_one_check_at_a_time_and_none_outlives_the_app() {
    let begin = || Life::begin(Rules { check: Some(CHECK), ..rules() }).then(READY).then(Event::Hello).does(&STARTED);
    let checking = || begin().after(20.0).does(&[Action::Work(Job::Pulse), Action::Work(Job::Check)]);
    checking().after(40.0).does(&[]);
    let ended = Event::Ended(Role::Work(Job::Check), ZERO);
    checking().then(ended.clone()).does(&[]).after(29.0).does(&[]).after(1.0).does(&[Action::Work(Job::Check)]);
    let rare = Rules { check: Some(Check { every: Duration::from_secs(3600), ..CHECK }), ..rules() };
    let failed = Life::begin(rare).then(READY).then(Event::Hello).after(20.0).then(Event::Ended(Role::Work(Job::Check), Ended::Code(65)));
    assert_eq!(failed.machine.check_at, Some(at(320.0)), "what was not proved is looked at again soon");
    // Litestream has died: later.
    let down = begin().then(Event::Ended(Role::Litestream, Ended::Signal(KILL)));
    down.after(20.0)
        .does(&[])
        .then(READY)
        .then(Event::Hello)
        .after(4.9)
        .does(&[Action::Work(Job::Pulse)])
        .after(0.1)
        .does(&[Action::Work(Job::Check)]);
    let stopped = || checking().then(Event::Signal(TERM)).does(&[Action::EndApp(TERM), Action::Stop(Role::Work(Job::Check))]);
    let gone = || stopped().then(Event::Ended(Role::App, ZERO)).then(Event::Left(0)).does(&[]);
    // It takes away what it has begun, or has had its time.
    let sync = Action::Flush(Sync::Socket, at(29.2));
    gone().then(ended).then(Event::Left(0)).does(std::slice::from_ref(&sync));
    gone()
        .after(1.0)
        .does(&[Action::Name(Named::OutsideKilled), Action::KillOutside])
        .then(Event::Left(0))
        .does(&[Action::Kill(Role::Work(Job::Check)), sync]);
}

#[test]
fn a_backup_that_differs_begins_anew_under_a_live_app() {
    let asked = || Life::running().then(Event::Said(Message::Resnapshot));
    asked().says_and(&[Action::LetGo]).then(Event::Ended(Role::Litestream, ZERO)).does(&[Action::Prepare(Preparation::Repair)]);
    // Twice is once, and what is not up takes one when it comes back.
    asked().then(Event::Said(Message::Resnapshot)).does(&[]);
    Life::begin(rules()).then(Event::Said(Message::Resnapshot)).does(&[]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let role = prop_oneof![
        Just(Role::App),
        Just(Role::Litestream),
        Just(Role::Prepare),
        Just(Role::Work(Job::Probe)),
        Just(Role::Flush),
        Just(Role::Work(Job::Pulse)),
        Just(Role::Work(Job::Watch)),
        Just(Role::Work(Job::Check)),
        Just(Role::Work(Job::Forget)),
        Just(Role::Work(Job::Serve)),
        Just(Role::Look)
    ];
    let ended = prop_oneof![Just(ZERO), Just(Ended::Code(78)), Just(Ended::Signal(9))];
    let message = prop_oneof![
        any::<(bool, bool)>().prop_map(|(held, unproven)| Message::Ready { held, unproven }),
        Just(Message::Held),
        Just(Message::Released),
        Just(Message::Reopen),
        Just(Message::Waits),
        Just(Message::Refused(65)),
        Just(Message::Refused(69)),
        Just(Message::Unsaved("x".into())),
        Just(Message::Saved("default".into())),
        Just(Message::Beat),
        Just(Message::Unheard),
        Just(Message::Flushed),
        Just(Message::Hung("x".into())),
        Just(Message::Begin("x".into())),
        Just(Message::ByPass),
        Just(Message::Resnapshot),
        Just(Message::Note("x".into())),
    ];
    prop_oneof![
        (1..=64_i32).prop_map(Event::Signal),
        (role.clone(), ended).prop_map(|(r, e)| Event::Ended(r, e)),
        role.prop_map(Event::NotStarted),
        message.prop_map(Event::Said),
        Just(Event::Hello),
        (0..3_usize).prop_map(Event::Left),
        prop_oneof![Just(OURS), Just(PASSED), Just(UNDECIDED), Just(SILENT)],
        Just(Event::Tick),
        Just(Event::StoodStill),
    ]
}

proptest! {
    // `CASES=200000` looks longer.
    #![proptest_config(ProptestConfig { cases: std::env::var("CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000), ..ProptestConfig::default() })]

    #[test]
    fn any_life_keeps_its_promises(
        flags in any::<[bool; 6]>(),
        migration in any::<[bool; 2]>(),
        checks in any::<bool>(),
        on_failure in prop_oneof![Just(OnFailure::Restart), Just(OnFailure::Exit), Just(OnFailure::Ignore)],
        started in any::<bool>(),
        events in proptest::collection::vec((any_event(), 0..3000_u64), 0..60),
    ) {
        let [replicates, standby, confirms, wait, watches, here] = flags;
        let rules = Rules { replicates, here, standby, confirms, wait, watches, migrate: migration[0].then(|| Duration::from_secs(2)), rollback: migration[1], check: checks.then_some(CHECK), repairs: confirms, on_failure, ..rules() };
        let mut machine = Machine::new(rules.clone());
        let mut all = machine.start(Now::ZERO);
        let mut now = Now::ZERO;
        let (mut app_lives, mut ready) = (false, !replicates);
        let (mut locked, mut decided) = (!standby, false);
        let (mut checking, mut syncing) = (false, false);
        let (mut seen, mut stopped) = (0, false);
        let mut check = |all: &Actions, event: Option<&Event>| {
            stopped |= matches!(event, Some(Event::Signal(TERM | INT | QUIT)));
            match event {
                Some(Event::Said(Message::Ready { .. })) => (ready, decided) = (true, true),
                Some(Event::Said(Message::Waits) | &PASSED) => ready = true,
                // What was decided without the lock does not count.
                Some(&OURS) if !locked => (locked, decided) = (true, false),
                _ => {}
            }
            if matches!(event, Some(Event::Ended(Role::App, _) | Event::NotStarted(Role::App))) {
                app_lives = false;
            }
            if matches!(event, Some(Event::Ended(Role::Work(Job::Check), _) | Event::NotStarted(Role::Work(Job::Check)))) {
                checking = false;
            }
            for action in &all[seen..] {
                if matches!(action, Action::Replicate | Action::Flush(Sync::Socket | Sync::Pass, _) | Action::Pass) {
                    assert!(locked && decided, "an upload without the lock or before the decision");
                }
                if matches!(action, Action::Flush(Sync::Rollback, _)) {
                    assert!(locked, "a database is put back without the lock");
                }
                match action {
                    Action::Migrate | Action::StartApp if stopped => panic!("something starts after a stop"),
                    Action::Migrate => {
                        assert!(ready, "the migration starts before its databases are there");
                        app_lives = true;
                    }
                    Action::StartApp => {
                        assert!(!app_lives, "the app starts beside its migration");
                        assert!(ready, "the app starts before its databases are there");
                        app_lives = true;
                    }
                    Action::Work(Job::Check) => {
                        assert!(!checking && !syncing && app_lives, "a check beside another, the last sync or no app");
                        checking = true;
                    }
                    Action::Kill(Role::Work(Job::Check)) => checking = false,
                    Action::Flush(..) => {
                        assert!(!checking, "the last sync beside a check");
                        syncing = true;
                    }
                    Action::SignalApp(_) | Action::EndApp(_) => assert!(app_lives, "a signal to an app that is gone"),
                    _ => {}
                }
            }
            seen = all.len();
        };
        check(&all, None);
        // Most of what may happen before there is an app ends a life early.
        let start = if started { vec![(READY, 0), (Event::Hello, 0)] } else { Vec::new() };
        for (event, pause) in start.into_iter().chain(events) {
            now = now.saturating_add(Duration::from_millis(pause));
            // What was due is done once, or PID 1 would spin.
            for more in [true, true, true, false] {
                if machine.deadline().is_some_and(|at| at <= now) {
                    prop_assert!(more, "a deadline that nothing clears: {machine:?}");
                    all.extend(machine.step(Event::Tick, now));
                    check(&all, None);
                }
            }
            all.extend(machine.step(event.clone(), now));
            check(&all, Some(&event));
        }
        // However it stands: a stop, and from then on only time passes.
        all.extend(machine.step(Event::Signal(TERM), now));
        all.extend(machine.step(Event::Signal(TERM), now));
        let (stopped, mut ticks) = (now, 0_u32);
        while let Some(due) = machine.deadline().filter(|_| !all.iter().any(|a| matches!(a, Action::Exit(_)))) {
            now = due.max(now.saturating_add(Duration::from_millis(1)));
            all.extend(machine.step(Event::Tick, now));
            ticks = ticks.saturating_add(1);
            prop_assert!(ticks < 1000, "it spins: {machine:?}");
            prop_assert!(now.saturating_sub(stopped) <= Duration::from_secs(11), "the budget is not kept");
        }
        let count = |wanted: fn(&Action) -> bool| all.iter().filter(|a| wanted(a)).count();
        prop_assert!(count(|a| matches!(a, Action::StartApp)) <= 1, "the app starts twice");
        prop_assert_eq!(count(|a| matches!(a, Action::Exit(_))), 1, "one end");
        prop_assert!(matches!(all.last(), Some(Action::Exit(_))), "something is done after the end");
        prop_assert!(count(|a| matches!(a, Action::Pass)) <= 1, "it is said twice");
    }
}
