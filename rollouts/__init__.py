"""A library about rollouts: prompts in, verified rollouts and trainable datasets out.

Nothing here knows how runs are scheduled or watched. Whoever wants to learn the field opens this package; start
with `rollouts.records` for the vocabulary and `docs/architecture.md` for the life of one rollout.
"""
