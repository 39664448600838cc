"""SAM templates deployed to a running embedded cloud, and what the API says is there afterwards."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from localaws.cloud import Cloud
from localaws.resources import KINDS, TemplateError
from localaws.template import Stack, translate

HANDLER = """
import os

def handler(event, context):
    if event.get("refuse"):
        raise ValueError("refused")
    return {"event": event, "greeting": os.environ["GREETING"], "bucket": os.environ["BUCKET"]}
"""

WORKFLOW = {
    "StartAt": "Greet",
    "States": {"Greet": {"Type": "Task", "Resource": "${GreetFunctionArn}", "TimeoutSeconds": 30, "End": True}},
}

TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Parameters:
  Greeting: {Type: String}
  Days: {Type: Number, Default: 7}
  Email: {Type: String, Default: ""}
Conditions:
  HasEmail: !Not [!Equals [!Ref Email, ""]]
Globals:
  Function:
    Runtime: python3.13
    CodeUri: code/
    Environment:
      Variables: {GREETING: !Ref Greeting}
Resources:
  Drops:
    Type: AWS::S3::Bucket
    Properties:
      VersioningConfiguration: {Status: Enabled}
      NotificationConfiguration: {EventBridgeConfiguration: {EventBridgeEnabled: true}}
      BucketEncryption:
        ServerSideEncryptionConfiguration: [{ServerSideEncryptionByDefault: {SSEAlgorithm: AES256}}]
      PublicAccessBlockConfiguration: {BlockPublicAcls: true, BlockPublicPolicy: true}
      OwnershipControls: {Rules: [{ObjectOwnership: BucketOwnerEnforced}]}
      LifecycleConfiguration:
        Rules:
          - {Id: old, Status: Enabled, Prefix: work/, ExpirationInDays: !Ref Days}
          - {Status: Enabled, NoncurrentVersionExpiration: {NoncurrentDays: 30}}
          - {Status: Enabled, AbortIncompleteMultipartUpload: {DaysAfterInitiation: 3}}
      Tags: [{Key: team, Value: test}]
  DropsPolicy:
    Type: AWS::S3::BucketPolicy
    Properties:
      Bucket: !Ref Drops
      PolicyDocument:
        Statement:
          - Effect: Deny
            Principal: "*"
            Action: s3:*
            Resource: !Sub "${Drops.Arn}/*"
            Condition: {Bool: {aws:SecureTransport: false}}
  Ledger:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}, {AttributeName: open, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      GlobalSecondaryIndexes:
        - IndexName: open
          KeySchema: [{AttributeName: open, KeyType: HASH}]
          Projection: {ProjectionType: ALL}
      SSESpecification: {SSEEnabled: true}
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}
      TimeToLiveSpecification: {AttributeName: expires, Enabled: true}
      StreamSpecification: {StreamViewType: NEW_IMAGE}
  Letters:
    Type: AWS::SQS::Queue
    Properties: {MessageRetentionPeriod: 1209600, SqsManagedSseEnabled: true}
  Work:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: "30"
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Letters.Arn, maxReceiveCount: 3}
  LettersPolicy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Letters]
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal: {Service: events.amazonaws.com}
            Action: sqs:SendMessage
            Resource: !GetAtt Letters.Arn
  WorkPolicy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Work]
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal: {Service: [events.amazonaws.com, sns.amazonaws.com]}
            Action: sqs:SendMessage
            Resource: !GetAtt Work.Arn
  News:
    Type: AWS::SNS::Topic
    Properties:
      DisplayName: news
      Subscription: [{Protocol: sqs, Endpoint: !GetAtt Work.Arn}]
  Mail:
    Type: AWS::SNS::Subscription
    Condition: HasEmail
    Properties: {TopicArn: !Ref News, Protocol: email, Endpoint: !Ref Email}
  NewsPolicy:
    Type: AWS::SNS::TopicPolicy
    Properties:
      Topics: [!Ref News]
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - {Effect: Allow, Principal: {Service: events.amazonaws.com}, Action: sns:Publish, Resource: !Ref News}
  Logs:
    Type: AWS::Logs::LogGroup
    Properties: {RetentionInDays: !Ref Days}
  Refusals:
    Type: AWS::Logs::MetricFilter
    Properties:
      LogGroupName: !Ref Logs
      FilterPattern: refused
      MetricTransformations: [{MetricName: Refused, MetricNamespace: Test, MetricValue: "1"}]
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: AWS/SQS
      MetricName: ApproximateNumberOfMessagesVisible
      Dimensions: [{Name: QueueName, Value: !GetAtt Letters.QueueName}]
      Statistic: Maximum
      Period: 300
      EvaluationPeriods: 1
      Threshold: 0
      ComparisonOperator: GreaterThanThreshold
      TreatMissingData: notBreaching
      AlarmActions: [!Ref News]
  Rights:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      PolicyDocument:
        Version: "2012-10-17"
        Statement: [{Effect: Allow, Action: s3:GetObject, Resource: !Sub "${Drops.Arn}/*"}]
  JobRole:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Statement: [{Effect: Allow, Principal: {Service: sagemaker.amazonaws.com}, Action: sts:AssumeRole}]
      ManagedPolicyArns: [!Ref Rights]
      Policies:
        - PolicyName: inline
          PolicyDocument: {Statement: [{Effect: Allow, Action: s3:PutObject, Resource: "*"}]}
  MoreRights:
    Type: AWS::IAM::Policy
    Properties:
      PolicyName: more
      Roles: [!Ref JobRole]
      PolicyDocument: {Statement: [{Effect: Allow, Action: s3:ListBucket, Resource: !GetAtt Drops.Arn}]}
  Libraries:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: layer/, CompatibleRuntimes: [python3.13]}
  GreetFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: app.handler
      Timeout: 20
      Layers: [!Ref Libraries]
      Tracing: Active
      Environment: {Variables: {BUCKET: !Ref Drops}}
      DeadLetterQueue: {Type: SQS, TargetArn: !GetAtt Letters.Arn}
      EventInvokeConfig: {MaximumRetryAttempts: 0}
      Policies: [{Statement: [{Effect: Allow, Action: s3:GetObject, Resource: !Sub "${Drops.Arn}/*"}]}]
      Events:
        Dropped:
          Type: EventBridgeRule
          Properties:
            Pattern: {source: [aws.s3], detail: {bucket: {name: [!Ref Drops]}}}
            RetryPolicy: {MaximumRetryAttempts: 3}
            DeadLetterConfig: {Arn: !GetAtt Letters.Arn}
        Often:
          Type: Schedule
          Properties: {Schedule: rate(5 minutes)}
        Nightly:
          Type: ScheduleV2
          Properties: {ScheduleExpression: "cron(0 3 * * ? *)", ScheduleExpressionTimezone: Europe/Berlin}
  Flow:
    Type: AWS::Serverless::StateMachine
    Properties:
      DefinitionUri: flow.asl.json
      DefinitionSubstitutions: {GreetFunctionArn: !GetAtt GreetFunction.Arn}
      Policies: [{LambdaInvokePolicy: {FunctionName: !Ref GreetFunction}}]
      Logging:
        Level: ERROR
        Destinations: [{CloudWatchLogsLogGroup: {LogGroupArn: !GetAtt Logs.Arn}}]
      Tracing: {Enabled: true}
  ToQueue:
    Type: AWS::Events::Rule
    Properties:
      EventPattern: {source: [deployed]}
      Targets:
        - Id: work
          Arn: !GetAtt Work.Arn
          InputTransformer: {InputPathsMap: {n: $.detail.n}, InputTemplate: '{"n": <n>}'}
  Bus:
    Type: AWS::Events::EventBus
    Properties: {Name: other}
  Group:
    Type: AWS::Scheduler::ScheduleGroup
  Traces:
    Type: AWS::XRay::Group
    Properties: {GroupName: traces}
Outputs:
  Bucket: {Value: !Ref Drops}
  Flow: {Value: !Ref Flow}
  Mail: {Condition: HasEmail, Value: !Ref Mail}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("application")
    (path / "template.yaml").write_text(TEMPLATE)
    (path / "code").mkdir()
    (path / "code" / "app.py").write_text(HANDLER)
    (path / "layer").mkdir()
    (path / "flow.asl.json").write_text(json.dumps(WORKFLOW))
    return path


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


@pytest.fixture(scope="module")
def stack(cloud: Cloud, folder: Path) -> Stack:
    return cloud.deploy(folder / "template.yaml", "test-app", {"Greeting": "hello"})


def test_names_and_outputs(stack: Stack) -> None:
    assert stack.outputs == {"Bucket": "test-app-drops", "Flow": stack.resources["Flow"]}
    assert stack.resources["GreetFunction"] == "test-app-GreetFunction"
    assert stack.resources["Logs"] == "test-app-Logs"
    assert stack.resources["Rights"].startswith("arn:aws:iam::123456789012:policy/")
    assert "Mail" not in stack.resources
    assert stack.attributes["Drops"]["Arn"] == "arn:aws:s3:::test-app-drops"


def test_the_bucket(cloud: Cloud, stack: Stack) -> None:
    s3, name = cloud.client("s3"), "test-app-drops"
    assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    assert s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]["BlockPublicAcls"] is True
    rules = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert (rules[0]["ID"], rules[0]["Filter"], rules[0]["Expiration"]["Days"]) == ("old", {"Prefix": "work/"}, 7)
    assert rules[1]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    assert rules[2]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 3
    encryption = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert encryption["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_the_table(cloud: Cloud, stack: Stack) -> None:
    dynamodb, name = cloud.client("dynamodb"), "test-app-Ledger"
    table = dynamodb.describe_table(TableName=name)["Table"]
    assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == ["open"]
    assert table["SSEDescription"]["Status"] == "ENABLED"
    assert table["LatestStreamArn"] == stack.attributes["Ledger"]["StreamArn"]
    expiry = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    assert expiry == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires"}
    backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


def test_queues_topics_and_alarms(cloud: Cloud, stack: Stack) -> None:
    sqs, sns = cloud.client("sqs"), cloud.client("sns")
    work = sqs.get_queue_attributes(QueueUrl=stack.resources["Work"], AttributeNames=["All"])["Attributes"]
    assert work["VisibilityTimeout"] == "30"
    assert json.loads(work["RedrivePolicy"])["maxReceiveCount"] == 3
    letters = sqs.get_queue_attributes(QueueUrl=stack.resources["Letters"], AttributeNames=["All"])["Attributes"]
    assert letters["MessageRetentionPeriod"] == "1209600"
    assert "events.amazonaws.com" in letters["Policy"]
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=stack.resources["News"])["Subscriptions"]
    assert subscription["Endpoint"] == stack.attributes["Work"]["Arn"]
    policy = sns.get_topic_attributes(TopicArn=stack.resources["News"])["Attributes"]["Policy"]
    assert "events.amazonaws.com" in policy
    (alarm,) = cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert (alarm["Threshold"], alarm["TreatMissingData"]) == (0, "notBreaching")
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": "test-app-Letters"}]
    (group,) = cloud.client("logs").describe_log_groups(logGroupNamePrefix="test-app-Logs")["logGroups"]
    assert group["retentionInDays"] == 7


def test_the_role(cloud: Cloud, stack: Stack) -> None:
    iam = cloud.client("iam")
    assert iam.list_role_policies(RoleName="test-app-JobRole")["PolicyNames"] == ["inline", "more"]
    (attached,) = iam.list_attached_role_policies(RoleName="test-app-JobRole")["AttachedPolicies"]
    assert attached["PolicyArn"] == stack.resources["Rights"]


def test_the_function_runs_with_its_environment(cloud: Cloud, stack: Stack) -> None:
    answer = cloud.client("lambda").invoke(FunctionName="test-app-GreetFunction", Payload=b'{"a": 1}')
    assert "FunctionError" not in answer
    found = json.loads(answer["Payload"].read())
    assert found == {"event": {"a": 1}, "greeting": "hello", "bucket": "test-app-drops"}
    configuration = cloud.client("lambda").get_function_configuration(FunctionName="test-app-GreetFunction")
    assert configuration["Timeout"] == 20
    assert [layer["Arn"] for layer in configuration["Layers"]] == [
        arn for name, arn in stack.resources.items() if name.startswith("Libraries")
    ]


def test_an_event_that_the_function_refuses_is_a_dead_letter(cloud: Cloud, stack: Stack) -> None:
    payload = b'{"refuse": true}'
    cloud.client("lambda").invoke(FunctionName="test-app-GreetFunction", InvocationType="Event", Payload=payload)
    (message,) = cloud.client("sqs").receive_message(
        QueueUrl=stack.resources["Letters"], WaitTimeSeconds=10, MessageAttributeNames=["All"]
    )["Messages"]
    assert json.loads(message["Body"]) == {"refuse": True}


def test_the_workflow_names_its_function(cloud: Cloud, stack: Stack) -> None:
    states = cloud.client("stepfunctions")
    definition = json.loads(states.describe_state_machine(stateMachineArn=stack.outputs["Flow"])["definition"])
    assert definition["States"]["Greet"]["Resource"] == stack.attributes["GreetFunction"]["Arn"]


def test_the_rule_delivers(cloud: Cloud, stack: Stack) -> None:
    entry = {"Source": "deployed", "DetailType": "x", "Detail": '{"n": 4}'}
    cloud.client("events").put_events(Entries=[entry])
    assert cloud.events.wait_idle()
    (message,) = cloud.client("sqs").receive_message(QueueUrl=stack.resources["Work"])["Messages"]
    assert json.loads(message["Body"]) == {"n": 4}


def test_rules_and_schedules_keep_what_the_template_says(cloud: Cloud, stack: Stack) -> None:
    events = cloud.client("events")
    rule = stack.resources["GreetFunctionDropped"]
    (target,) = events.list_targets_by_rule(Rule=rule)["Targets"]
    assert target["Arn"] == stack.attributes["GreetFunction"]["Arn"]
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 3}
    assert target["DeadLetterConfig"] == {"Arn": stack.attributes["Letters"]["Arn"]}
    assert events.describe_rule(Name=stack.resources["GreetFunctionOften"])["ScheduleExpression"] == "rate(5 minutes)"
    schedule = cloud.client("scheduler").get_schedule(Name=stack.resources["GreetFunctionNightly"])
    assert (schedule["ScheduleExpression"], schedule["ScheduleExpressionTimezone"]) == (
        "cron(0 3 * * ? *)",
        "Europe/Berlin",
    )


def test_an_alias_of_a_key(cloud: Cloud, folder: Path) -> None:
    path = folder / "key.yaml"
    path.write_text(
        "Resources:\n"
        "  Key: {Type: AWS::KMS::Key, Properties: {Description: d, EnableKeyRotation: true}}\n"
        "  Alias: {Type: AWS::KMS::Alias, Properties: {AliasName: alias/test, TargetKeyId: !Ref Key}}\n"
    )
    key = cloud.deploy(path, "keys").resources["Key"]
    assert cloud.client("kms").describe_key(KeyId="alias/test")["KeyMetadata"]["KeyId"] == key


FUNCTION = "Type: AWS::Serverless::Function, Properties: {Runtime: python3.13, Handler: a.b, "


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ("  A: {Type: AWS::EC2::Instance}", r"^A \(AWS::EC2::Instance\): .*doesn't know this type"),
        ("  A: {Type: AWS::SQS::Queue, Properties: {Colour: red}}", r"^A .*property Colour"),
        ("  A: {Type: AWS::SQS::Queue, CreationPolicy: {}}", "CreationPolicy"),
        ("  A: {Type: AWS::SQS::Queue, Properties: {DelaySeconds: !Ref Typo}}", r"^A .*Typo is neither"),
        (f"  A: {{{FUNCTION}CodeUri: gone/}}}}", r"^A .*code folder gone/ doesn't exist"),
        (f"  A: {{{FUNCTION}CodeUri: code/, VpcConfig: {{SubnetIds: [a]}}}}}}", r"^A .*VpcConfig"),
        (
            "  A: {Type: AWS::Serverless::StateMachine, Properties: {DefinitionUri: gone.json, Role: 'arn:x'}}",
            r"^A .*gone.json doesn't exist",
        ),
        (
            "  A: {Type: AWS::Serverless::StateMachine, Properties: {DefinitionUri: flow.asl.json, "
            "Role: 'arn:aws:iam::123456789012:role/x'}}",
            r"^A .*no value for GreetFunctionArn",
        ),
        (
            "  A: {Type: AWS::Events::Rule, Properties: {ScheduleExpression: rate(1 dayz)}}",
            r"^A .*rate\(1 dayz\).* is not a schedule",
        ),
        (
            "  A: {Type: AWS::Events::Rule, Properties: {EventPattern: {source: [a]}, "
            "Targets: [{Id: t, Arn: 'arn:aws:ecs:us-east-1:123456789012:cluster/c'}]}}",
            r"^A .*delivers no event to ecs",
        ),
        (
            "  A: {Type: AWS::SNS::Subscription, Properties: {Protocol: sqs, Endpoint: 'arn:x', "
            "TopicArn: 'arn:aws:sns:us-east-1:123456789012:none'}}",
            r"^A \(AWS::SNS::Subscription\) can't be created: .*NotFound",
        ),
    ],
)
def test_what_would_be_lost_is_refused(cloud: Cloud, folder: Path, resources: str, reason: str) -> None:
    path = folder / "refused.yaml"
    path.write_text(f"Transform: AWS::Serverless-2016-10-31\nResources:\n{resources}\n")
    with pytest.raises(TemplateError, match=reason):
        cloud.deploy(path, "refused")


def test_nothing_is_made_before_everything_is_checked(cloud: Cloud, folder: Path) -> None:
    path = folder / "half.yaml"
    path.write_text("Resources:\n  A: {Type: AWS::SQS::Queue}\n  B: {Type: AWS::EC2::Instance}\n")
    with pytest.raises(TemplateError):
        cloud.deploy(path, "half")
    assert "QueueUrls" not in cloud.client("sqs").list_queues(QueueNamePrefix="half-")


def test_every_type_is_deployed_here(folder: Path) -> None:
    types = {body["Type"] for body in translate(folder / "template.yaml")["Resources"].values()}
    assert KINDS.keys() - types == {"AWS::KMS::Key", "AWS::KMS::Alias"}


def test_this_repositorys_application(cloud: Cloud) -> None:
    stack = cloud.deploy(Path(__file__).parents[2] / "template.yaml")
    assert stack.outputs["DropBucket"] == "dropmill-local-drops"
    assert stack.outputs["ArtifactBucket"] == "dropmill-local-artifacts"
    assert stack.name == "dropmill-local"
