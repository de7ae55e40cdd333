"""trainer streams, steps, publishes.

One readable step loop over the plan's batches, resumable at any step, with or without torch.distributed.
What it publishes names the data, rules and parameters that made it.
"""
