"""What `bench_peers.py` is made of.

* `measuring`: pictures, plain forward passes, what was spent on maps; needs numpy and ONNX Runtime alone.
* `adapters`: one function per peer, and the table of them.
* `judging`: faithfulness of the maps, and the table that is printed.
* `backward`: backward graphs by onnx-ad beside this project's.
"""
