"""Plans: the options of a training, chosen for the data, the machine and the time there is.

`rules` chooses, `machine` says what computes and how fast, `blocks` how many blocks rooms give,
`file` reads and writes a plan. Nothing is learnt: docs/plan.md states every rule.
"""
