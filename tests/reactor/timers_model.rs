//! Timers beside a model of them: random ones are set and cancelled, by handlers and over several turns.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::support::turns::until;
use ipc_reactor::{Context, Limits, Reactor, TimerKey};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    After(u64),
    Cancel(usize),
    /// Do the rest in another turn, this much later.
    Turn(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u64..400).prop_map(Step::After),
        2 => (0_usize..64).prop_map(Step::Cancel),
        1 => (0_u64..100).prop_map(Step::Turn),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What should have happened, computed from the calls alone.
#[derive(Default)]
struct Model {
    steps: VecDeque<Step>,
    set: Vec<(TimerKey, Instant)>,
    live: Vec<bool>,
    fired: Vec<Instant>,
    done: bool,
    /// What should not have happened.
    wrong: Option<String>,
}

fn take_steps(cx: &mut Context<'_, Model>, model: &mut Model) -> io::Result<()> {
    while let Some(step) = model.steps.pop_front() {
        match step {
            Step::After(micros) => {
                let after = Duration::from_micros(micros);
                let (due, number) = (cx.now() + after, model.set.len());
                let key = cx.after(after, move |cx, model: &mut Model| {
                    if !std::mem::take(&mut model.live[number]) {
                        model.wrong = Some(format!("timer {number} fired after its end"));
                    }
                    if cx.now() < due {
                        model.wrong = Some(format!("timer {number} fired early"));
                    }
                    model.fired.push(due);
                    Ok(())
                });
                model.set.push((key, due));
                model.live.push(true);
            }
            Step::Cancel(number) if number < model.set.len() => {
                let was_live = std::mem::take(&mut model.live[number]);
                if cx.cancel(model.set[number].0) != was_live {
                    model.wrong = Some(format!("cancelling timer {number}: it should have been {was_live}"));
                }
            }
            Step::Cancel(_) => {}
            Step::Turn(micros) => {
                cx.after(Duration::from_micros(micros), take_steps);
                return Ok(());
            }
        }
    }
    model.done = true;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn timers_do_as_a_list_of_deadlines_does(steps in steps(), budget in 1_usize..8) {
        let limits = Limits { messages_per_visit: budget, ..Limits::default() };
        let mut reactor = Reactor::<Model>::builder().limits(limits).build().unwrap();
        let mut model = Model { steps: steps.into(), ..Model::default() };
        reactor.after(Duration::ZERO, take_steps);
        until(&mut reactor, &mut model, |model| {
            model.wrong.is_some() || model.done && !model.live.contains(&true)
        });
        prop_assert_eq!(model.wrong, None);
        prop_assert_eq!(reactor.timers(), 0);
        prop_assert!(model.fired.is_sorted(), "{:?}", model.fired);
    }
}
