"""Mathematics without learnt weights: masks, distributions, schedules."""
