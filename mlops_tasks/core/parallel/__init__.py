"""One fit by several processes of one machine, each with a device of its own.

launch.py hands a fit over through a folder (job.py, folder.py) and watches; agent.py is torchrun's agent; worker.py is one
process of the fit; ranks.py adds their gradients up. Every process holds all rows and all weights; a step's rows are dealt
out, so that a step is the same mean over the same rows as with one process, added up in another order.
"""
