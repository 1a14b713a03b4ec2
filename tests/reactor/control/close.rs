//! The class C2: a handler that closes its own source is never called again, whatever is left of its batch; the other
//! handlers are.

use crate::control::{Act, SECOND, Scene};

/// C2: each kind of handler closes its own source, in each way, at its first and at its second call, which
/// is the last of a visit or not.
#[test]
fn a_handler_that_closes_its_own_source_is_never_called_again() {
    for actor in Scene::names(|member| member.closes) {
        for (budget, act, at) in
            [(1_024, Act::Finish, 1), (1_024, Act::Abort, 2), (1, Act::Close, 2), (2, Act::Finish, 2)]
        {
            closes_itself(&actor, budget, act, at);
        }
    }
}

fn closes_itself(actor: &str, budget: usize, act: Act, at: usize) {
    let mut scene = Scene::new(budget);
    let member = scene.members.iter().find(|member| member.name == actor).unwrap();
    let (at, is_told) = (at.min(member.calls), member.is_told);
    let case = format!("{actor}, {act:?} at call {at}, {budget} messages a visit");
    scene.begin(actor, act, at);
    scene.make_ready();
    scene.settle();
    let world = &scene.world;
    assert!(world.has_acted, "{case}");
    assert!(!world.after.iter().any(|who| who == actor), "{case}: {:?}", world.after);
    let told: &[_] = if is_told { &[(actor, "Closed")] } else { &[] };
    assert_eq!(scene.closed(), told, "{case}");
    for member in scene.members.iter().filter(|member| member.name != actor) {
        assert_eq!(world.count(&member.name), member.calls, "{case}: {}", member.name);
    }
    let key = world.keys[actor];
    assert!(!scene.reactor.close(key) && !scene.reactor.abort(key), "{case}: it is closed already");
    // Nothing that was kept for later comes then.
    scene.clock.advance(SECOND);
    scene.settle();
    assert!(!scene.world.after.iter().any(|who| who == actor), "{case}: {:?}", scene.world.after);
}
