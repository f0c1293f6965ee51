"""The tutorials' programs and the official client SDKs, each as its user runs it, against a running service.

Programs are started as processes of their own and judged by what they print. Nothing here tests frame by frame
(tests/service does), and nobody else imports from here.
"""
