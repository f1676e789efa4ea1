//! Law 8 against the model: crashes and runs in place. To the model, a stretch in which the node stands
//! still is one in which every session is paused.

use billing::Takeover;
use proptest::prelude::*;

use crate::{
    STORY_MS, Story,
    model::{Command, Model},
    story,
    world::{Chore, Cut, World},
};

/// A stretch in which the node stands still.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from_ms: i64,
    to_ms: i64,
    takeover: Takeover,
    kind: Cut,
}

fn gaps() -> impl Strategy<Value = Vec<Gap>> {
    let takeover = prop_oneof![3 => Just(Takeover::Resume), 1 => Just(Takeover::End)];
    let kind = prop_oneof![Just(Cut::Crash), Just(Cut::InPlace)];
    let gap = (5..STORY_MS / 2, 1..60_i64, takeover, kind);
    proptest::collection::vec(gap, 1..=3).prop_map(|drawn| {
        let mut free_from = 1;
        let gaps = drawn.into_iter().map(|(after, length, takeover, kind)| {
            let from_ms = free_from + after / 2;
            let to_ms = from_ms + length;
            free_from = to_ms + 1;
            Gap {
                from_ms,
                to_ms,
                takeover,
                kind,
            }
        });
        gaps.filter(|gap| gap.to_ms < STORY_MS).collect()
    })
}

/// The story with nothing happening in the gaps: whoever wants something then gets it afterwards.
fn put_off(story: &mut Story, gaps: &[Gap]) {
    let put_off = |at_ms: &mut i64| {
        for gap in gaps {
            if (gap.from_ms..gap.to_ms).contains(at_ms) && *at_ms > gap.from_ms {
                *at_ms = gap.to_ms;
            }
        }
    };
    let is_pause = |command: &Command| matches!(command, Command::Pause | Command::Resume);
    story.commands.retain(|(_, command)| !is_pause(command));
    story
        .commands
        .iter_mut()
        .for_each(|(at_ms, _)| put_off(at_ms));
    story
        .credits
        .iter_mut()
        .for_each(|(at_ms, _)| put_off(at_ms));
    story
        .chores
        .iter_mut()
        .for_each(|(at_ms, _)| put_off(at_ms));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// However often the node stands still, and whether it comes back by a crash or in place, nothing
    /// is charged for what was not served, and nothing that was is free.
    #[test]
    fn standing_still_is_free(story in story(), gaps in gaps()) {
        let mut story = story;
        put_off(&mut story, &gaps);
        let moments = story.moments();
        let mut model = Model::new(story.opening);
        let mut world = World::new(story.opening);
        for now_ms in 0..=STORY_MS {
            let back = gaps.iter().find(|gap| gap.to_ms == now_ms);
            if let Some(gap) = back {
                world.cut(gap.from_ms, gap.to_ms, gap.takeover, gap.kind);
                model.command(Command::Resume);
            }
            let moment = &moments[usize::try_from(now_ms).unwrap()];
            let debits = model.debits.len();
            model.moment(moment);
            if moment.credits > 0 {
                world.change(now_ms, moment.credits);
            }
            for (_, taken) in model.debits[debits..].iter().filter(|(_, taken)| *taken > 0) {
                world.change(now_ms, -taken);
            }
            let is_standing = gaps.iter().any(|gap| (gap.from_ms + 1..gap.to_ms).contains(&now_ms));
            if !is_standing {
                world.notice(now_ms);
                moment.commands.iter().for_each(|command| world.command(now_ms, *command));
                for (_, chore) in story.chores.iter().filter(|(at_ms, _)| *at_ms == now_ms) {
                    world.chore(now_ms, *chore);
                }
            }
            if let Some(gap) = gaps.iter().find(|gap| gap.from_ms == now_ms) {
                match gap.takeover {
                    Takeover::Resume => model.command(Command::Pause),
                    Takeover::End => model.end_all(),
                }
            }
            if now_ms < STORY_MS {
                model.serve_one_ms();
            }
        }
        world.chore(STORY_MS, Chore::Advance);
        world.finish(STORY_MS);
        world.check_balance(&model);
        world.check_records(&model);
    }
}
