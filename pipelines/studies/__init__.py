"""What an ablation is made of: `studies` and `grid` say which rows, `plan` what each one trains,
`study_file` keeps it, `matching` finds the runs that belong to it, `gather` what they came to."""
