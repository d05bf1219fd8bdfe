"""The workbench of the nested virtualization series: builds, boots and proves it.

Runs inside the toolbox that ./nest makes; see README.md.
"""
